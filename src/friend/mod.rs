//! Friends: asking, agreeing, and what one notes about the other.
//!
//! Each change and the message that announces it are one transaction, in which what the two are to
//! each other is read under a lock; so two who ask each other at the same time end as friends, and
//! one of them is told that the other agreed. Whether friendship is needed to write is `message`'s
//! matter.

use std::sync::Arc;

use crate::{
    check,
    clock::Clock,
    error::{Code, Error, Result},
    id::{Owner, UserId},
    limits::{DESCRIPTION_BYTES_MAX, EXTRA_BYTES_MAX, REMARKS_BYTES_MAX},
    message::{Address, announcement},
    pb::{self, PushCode, ReceiverType},
    store::{self, Store, Tx, friend::Status, within_deadline},
    timeline::{Append, Applied, Change, Stop, Writer},
    user::{Directory, Profile},
};

mod rules;
#[cfg(test)]
mod tests;

pub use crate::store::friend::Friend;
use rules::{Step, Wish};

/// What a user asks another one with.
#[derive(Clone, Debug, Default)]
pub struct Asking {
    /// What he wants to call him.
    pub remarks: String,
    /// What the other is told.
    pub description: String,
}

/// What a user notes about a friend.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Notes {
    /// What he calls him.
    pub remarks: String,
    /// Whatever the business keeps with the friendship.
    pub extra: String,
}

/// The friendships in this server's database.
#[derive(Debug)]
pub struct Friends {
    store: Store,
    writer: Writer,
    directory: Arc<Directory>,
    clock: Arc<dyn Clock>,
}

impl Friends {
    /// The friendships in `store`, changed through `writer`.
    #[must_use]
    pub const fn new(
        store: Store,
        writer: Writer,
        directory: Arc<Directory>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self {
            store,
            writer,
            directory,
            clock,
        }
    }

    /// Asks a user to become a friend, who is told so; once, however often he is asked. Who has
    /// asked `user` before becomes his friend at once, and is told that.
    ///
    /// # Errors
    /// [`Code::BadRequest`] naming the field, also for oneself; [`Code::NoSuchUser`];
    /// [`Code::FriendsAlready`]; [`Code::TooManyRequests`] or [`Code::TryAgain`] as
    /// [`Writer::change`].
    pub async fn add(&self, user: UserId, friend: UserId, asking: Asking) -> Result<()> {
        check_other("friend_id", user, friend)?;
        check::text("remarks", &asking.remarks, REMARKS_BYTES_MAX)?;
        check::text("description", &asking.description, DESCRIPTION_BYTES_MAX)?;
        self.wish(user, Wish::Add, friend, asking).await
    }

    /// Agrees to be the friend of a user who has asked, and who is told so. Agreeing again changes
    /// nothing.
    ///
    /// # Errors
    /// [`Code::BadRequest`] naming the field, also for oneself and for who has not asked;
    /// [`Code::NoSuchUser`]; [`Code::TooManyRequests`] or [`Code::TryAgain`] as
    /// [`Writer::change`].
    pub async fn agree(&self, user: UserId, asker: UserId, remarks: String) -> Result<()> {
        check_other("user_id", user, asker)?;
        check::text("remarks", &remarks, REMARKS_BYTES_MAX)?;
        let asking = Asking {
            remarks,
            description: String::new(),
        };
        self.wish(user, Wish::Agree, asker, asking).await
    }

    async fn wish(&self, by: UserId, wish: Wish, other: UserId, asking: Asking) -> Result<()> {
        let mut profiles = self.directory.profiles(&[by, other]).await?;
        let profile = profiles.remove(&by).ok_or_else(Error::sign_in_again)?;
        if !profiles.contains_key(&other) {
            return Err(no_such_user());
        }
        // What changes nothing, or is refused, need not wait for the writer.
        let pair = within_deadline(async {
            Ok(store::friend::pair(self.store.reader(), by, other).await?)
        });
        if rules::step(wish, pair.await?)? == Step::Stay {
            return Ok(());
        }
        let courtship = Courtship {
            by,
            wish,
            other,
            asking,
            profile,
            now_ms: self.clock.now_ms(),
        };
        self.writer.change(courtship).await
    }

    /// Replaces everything that `user` notes about a friend.
    ///
    /// # Errors
    /// [`Code::BadRequest`] naming the field, also for oneself; [`Code::NotFriends`];
    /// [`Code::NoSuchUser`]; [`Code::TryAgain`].
    pub async fn set(&self, user: UserId, friend: UserId, notes: &Notes) -> Result<()> {
        let Notes { remarks, extra } = notes;
        check_other("friend_id", user, friend)?;
        check::text("remarks", remarks, REMARKS_BYTES_MAX)?;
        check::text("extra", extra, EXTRA_BYTES_MAX)?;
        let now_ms = self.clock.now_ms();
        let tx = self.store.begin().await?;
        let set = within_deadline(async {
            let set = store::friend::describe(tx.conn(), user, friend, remarks, extra, now_ms);
            let set = set.await?;
            tx.commit().await?;
            Ok(set)
        });
        if set.await? {
            return Ok(());
        }
        match self.directory.profile(friend).await? {
            Some(_) => Err(Error::business(Code::NotFriends, "not friends")),
            None => Err(no_such_user()),
        }
    }

    /// The friends of a user, by id. Phone numbers are known of accounts in the database only.
    ///
    /// # Errors
    /// [`Code::TryAgain`].
    pub async fn list(&self, user: UserId) -> Result<Vec<Friend>> {
        let conn = self.store.reader();
        if self.directory.is_built_in() {
            return within_deadline(store::friend::of_user(conn, user)).await;
        }
        let notes = within_deadline(store::friend::notes_of_user(conn, user)).await?;
        let ids: Vec<UserId> = notes.iter().map(|(id, ..)| UserId(*id)).collect();
        let profiles = self.directory.profiles(&ids).await?;
        let friends = notes.into_iter().filter_map(|(user_id, remarks, extra)| {
            let profile = profiles.get(&UserId(user_id))?;
            Some(Friend {
                user_id,
                phone_number: String::new(),
                nickname: profile.nickname.clone(),
                sex: profile.sex,
                avatar_url: profile.avatar_url.clone(),
                user_extra: profile.extra.clone(),
                remarks,
                extra,
            })
        });
        Ok(friends.collect())
    }
}

fn check_other(field: &str, user: UserId, other: UserId) -> Result<()> {
    check::id(field, other.get())?;
    if user == other {
        return Err(Error::bad_request(field, "must not be the caller"));
    }
    Ok(())
}

fn no_such_user() -> Error {
    Error::business(Code::NoSuchUser, "no such user")
}

/// One user's wish, to be fulfilled and announced.
struct Courtship {
    by: UserId,
    wish: Wish,
    other: UserId,
    asking: Asking,
    /// Of whose wish it is.
    profile: Arc<Profile>,
    now_ms: i64,
}

impl Change for Courtship {
    type Output = ();

    fn by(&self) -> UserId {
        self.by
    }

    fn rows(&self) -> usize {
        // A row for each of the two, a message and its entry.
        4
    }

    fn bytes(&self) -> usize {
        self.asking.remarks.len() + self.asking.description.len()
    }

    async fn apply(&self, tx: &Tx) -> Result<Applied<()>, Stop> {
        let conn = tx.conn();
        let pair = store::friend::lock(conn, self.by, self.other).await?;
        let step = rules::step(self.wish, pair)?;
        let announcement = match step {
            Step::Stay => None,
            Step::Ask => {
                self.put(tx, Status::Asked).await?;
                Some(self.asked())
            }
            Step::Befriend => {
                self.put(tx, Status::Agreed).await?;
                store::friend::agree(conn, self.other, self.by, self.now_ms).await?;
                Some(self.agreed())
            }
        };
        Ok(Applied {
            output: (),
            announcements: announcement.into_iter().collect(),
        })
    }

    // That two are strangers is remembered nowhere.
    fn committed(&self, (): &()) {}
}

impl Courtship {
    /// Writes the row of whose wish it is.
    async fn put(&self, tx: &Tx, status: Status) -> Result<(), store::Failure> {
        let remarks = self.asking.remarks.clone();
        store::friend::put(tx.conn(), self.by, self.other, status, remarks, self.now_ms).await
    }

    fn asked(&self) -> Append {
        let push = pb::AddFriendPush {
            friend_id: self.by.get(),
            nickname: self.profile.nickname.clone(),
            avatar_url: self.profile.avatar_url.clone(),
            description: self.asking.description.clone(),
        };
        self.tell_other(PushCode::PcAddFriend, &push)
    }

    fn agreed(&self) -> Append {
        let push = pb::AgreeAddFriendPush {
            friend_id: self.by.get(),
            nickname: self.profile.nickname.clone(),
            avatar_url: self.profile.avatar_url.clone(),
        };
        self.tell_other(PushCode::PcAgreeAddFriend, &push)
    }

    fn tell_other(&self, code: PushCode, push: &impl prost::Message) -> Append {
        let address = Address {
            receiver_type: ReceiverType::RtUser,
            receiver_id: self.other.get(),
            now_ms: self.now_ms,
        };
        announcement(address, vec![Owner::User(self.other)], code, push)
    }
}
