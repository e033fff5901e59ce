//! A change of the database that is announced by messages: who is in a group, who is whose friend.
//! It and its messages are one transaction, run by the writer in its turn, so that a message is
//! given to exactly those who were members at its position.

use std::{fmt, future::Future};

use futures_util::{FutureExt, future::BoxFuture};
use tokio::sync::oneshot;

use super::append::Append;
use crate::{
    error::{Error, Result},
    id::UserId,
    store::{Failure, Tx},
};

/// A change and what announces it.
pub trait Change: Send + Sync + 'static {
    /// What whoever asked for it is answered.
    type Output: Send + 'static;

    /// Who asked for it: it takes turns with what he sends, in order.
    fn by(&self) -> UserId;

    /// Rows that it is expected to write, its messages' entries included.
    fn rows(&self) -> usize;

    /// Bytes of memory that its texts take while it waits, about.
    fn bytes(&self) -> usize;

    /// Reads, decides and writes. It is run again from the start when the transaction must be, so
    /// it changes nothing but the database.
    ///
    /// # Errors
    /// [`Stop`]; then nothing that it wrote stays.
    fn apply(&self, tx: &Tx) -> impl Future<Output = Result<Applied<Self::Output>, Stop>> + Send;

    /// Runs after the commit, before anything is published or answered, and after a commit whose
    /// outcome is unknown: what this instance remembers of the former state must go.
    fn committed(&self, output: &Self::Output);
}

/// A change that has been written, but for its messages.
#[derive(Debug)]
pub struct Applied<T> {
    /// What is answered.
    pub output: T,
    /// What is appended in the same transaction; each goes to fixed timelines and bears no client
    /// message id. At most [`ANNOUNCEMENTS_MAX`](crate::limits::ANNOUNCEMENTS_MAX).
    pub announcements: Vec<Append>,
}

/// Why a change was not written.
#[derive(Debug)]
pub enum Stop {
    /// It may not be: the answer to whoever asked.
    Refused(Error),
    /// The database failed; the writer decides whether to try again.
    Failed(Failure),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Refused(error)
    }
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

/// A change of any kind with whoever waits for it.
pub(super) trait Work: Send {
    /// Who asked for it.
    fn by(&self) -> UserId;
    /// See [`Change::rows`].
    fn rows(&self) -> usize;
    /// See [`Change::bytes`].
    fn bytes(&self) -> usize;
    /// Nobody waits for it any more.
    fn is_abandoned(&self) -> bool;
    /// See [`Change::apply`]; gives what announces it.
    fn apply<'a>(&'a mut self, tx: &'a Tx) -> BoxFuture<'a, Result<Vec<Append>, Stop>>;
    /// See [`Change::committed`].
    fn committed(&self);
    /// Tells whoever waits that it is done: with what it led to when it was applied last.
    fn done(self: Box<Self>);
    /// Tells whoever waits that it is not.
    fn failed(self: Box<Self>, error: Error);
}

/// A change and what it led to when it was applied last.
pub(super) struct Pending<C: Change> {
    change: C,
    output: Option<C::Output>,
    reply: oneshot::Sender<Result<C::Output>>,
}

impl<C: Change> Pending<C> {
    /// A change that waits, and where its outcome comes.
    pub(super) fn new(change: C) -> (Self, oneshot::Receiver<Result<C::Output>>) {
        let (reply, outcome) = oneshot::channel();
        let pending = Self {
            change,
            output: None,
            reply,
        };
        (pending, outcome)
    }
}

impl<C: Change> Work for Pending<C> {
    fn by(&self) -> UserId {
        self.change.by()
    }

    fn rows(&self) -> usize {
        self.change.rows()
    }

    fn bytes(&self) -> usize {
        self.change.bytes()
    }

    fn is_abandoned(&self) -> bool {
        self.reply.is_closed()
    }

    fn apply<'a>(&'a mut self, tx: &'a Tx) -> BoxFuture<'a, Result<Vec<Append>, Stop>> {
        async {
            let applied = self.change.apply(tx).await?;
            self.output = Some(applied.output);
            Ok(applied.announcements)
        }
        .boxed()
    }

    fn committed(&self) {
        if let Some(output) = &self.output {
            self.change.committed(output);
        }
    }

    fn done(self: Box<Self>) {
        if let Some(output) = self.output {
            // That nobody waits any more is his affair; so below.
            let _ = self.reply.send(Ok(output));
        }
    }

    fn failed(self: Box<Self>, error: Error) {
        let _ = self.reply.send(Err(error));
    }
}

impl fmt::Debug for dyn Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Work")
            .field("by", &self.by())
            .field("rows", &self.rows())
            .finish()
    }
}
