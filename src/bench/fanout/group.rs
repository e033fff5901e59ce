//! The group that messages are sent to: made through the public API, by pages, with those who are
//! offline first, so that what their joining causes lies before all who come online.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::sleep;
use tonic::{Response, Status, metadata::MetadataMap};

use super::options::{Fanout, Kind};
use crate::{
    bench::{
        Bench,
        accounts::{self, Account, is_busy},
        failure::Failure,
        grpc,
        progress::Progress,
        tally::get,
    },
    error::{Error, Result},
    pb::{AddGroupMembersReq, CreateGroupReq, GetGroupReq, GroupType},
};

/// Members of one call: the most that the contract allows.
const PAGE_MEMBERS: usize = 1_000;
/// How often a call is tried when the server is busy.
const ATTEMPTS_MAX: u32 = 6;
/// The wait before the second attempt; it doubles.
const BACKOFF: Duration = Duration::from_millis(100);

/// A group that exists.
#[derive(Clone, Copy, Debug)]
pub struct Group {
    /// Its id.
    pub id: i64,
    /// How many members it has.
    pub members: u64,
}

/// Makes the group that `options` ask for, of those `online` and the offline members, or looks up
/// the one they name.
pub async fn provide(bench: &Bench, options: &Fanout, online: &[Account]) -> Result<Group> {
    let Some((creator, others)) = online.split_first() else {
        return Err(Error::internal("a group without members"));
    };
    let admin = Admin {
        bench,
        credentials: grpc::credentials(creator)?,
    };
    if let Some(id) = options.group {
        let members = admin.members(id).await?;
        return Ok(Group { id, members });
    }
    let mut ids = match options.offline_from {
        Some(first) => (first..).take(options.offline as usize).collect(),
        None => accounts::provide_offline(bench, creator, options.offline).await?,
    };
    ids.extend(others.iter().map(|account| account.user_id));
    let id = admin.make(options.kind, &ids).await?;
    let (members, wanted) = (admin.members(id).await?, 1 + ids.len() as u64);
    if members != wanted {
        let what = format!("the group has {members} members where {wanted} were added");
        return Err(Error::internal(what));
    }
    Ok(Group { id, members })
}

/// Who makes the group.
struct Admin<'a> {
    bench: &'a Bench,
    credentials: MetadataMap,
}

impl Admin<'_> {
    /// A group of the caller and `ids`.
    async fn make(&self, kind: Kind, ids: &[i64]) -> Result<i64> {
        let added = Arc::new(AtomicU64::new(0));
        let (shown, all) = (Arc::clone(&added), ids.len());
        let _progress = Progress::show(&self.bench.tasks, move || {
            format!("adding members: {} of {all}", get(&shown))
        });
        let add = |page: &[i64]| {
            added.fetch_add(page.len() as u64, Ordering::Relaxed);
        };
        let (first, rest) = ids.split_at(ids.len().min(PAGE_MEMBERS));
        let id = self.create(kind, first).await?;
        add(first);
        for page in rest.chunks(PAGE_MEMBERS) {
            self.extend(id, page).await?;
            add(page);
        }
        Ok(id)
    }

    async fn create(&self, kind: Kind, ids: &[i64]) -> Result<i64> {
        let group = CreateGroupReq {
            name: "im bench".to_owned(),
            r#type: group_type(kind).into(),
            member_ids: ids.to_vec(),
            ..CreateGroupReq::default()
        };
        let mut client = self.bench.grpc.logic(0);
        let created = insist("creating the group", async || {
            let request = grpc::request(group.clone(), &self.credentials);
            client.create_group(request).await
        });
        Ok(created.await?.group_id)
    }

    /// Adds to the group; to be tried again without harm.
    async fn extend(&self, group_id: i64, ids: &[i64]) -> Result<()> {
        let page = AddGroupMembersReq {
            group_id,
            user_ids: ids.to_vec(),
        };
        let mut client = self.bench.grpc.logic(0);
        let added = insist("adding members", async || {
            let request = grpc::request(page.clone(), &self.credentials);
            client.add_group_members(request).await
        });
        added.await.map(drop)
    }

    async fn members(&self, group_id: i64) -> Result<u64> {
        let mut client = self.bench.grpc.logic(0);
        let found = insist("looking up the group", async || {
            let request = grpc::request(GetGroupReq { group_id }, &self.credentials);
            client.get_group(request).await
        });
        let group = found.await?.group.unwrap_or_default();
        Ok(u64::try_from(group.user_mum).unwrap_or_default())
    }
}

fn group_type(kind: Kind) -> GroupType {
    match kind {
        Kind::Small => GroupType::GtSmall,
        Kind::Large => GroupType::GtLarge,
        // A room is no group.
        Kind::Room => GroupType::GtUnknown,
    }
}

/// Calls until the server is not too busy to answer.
async fn insist<T>(
    doing: &str,
    mut call: impl AsyncFnMut() -> Result<Response<T>, Status>,
) -> Result<T> {
    let mut backoff = BACKOFF;
    let mut attempt = 1;
    loop {
        let failure = match call().await {
            Ok(answer) => return Ok(answer.into_inner()),
            Err(status) => Failure::from(status),
        };
        if attempt == ATTEMPTS_MAX || !is_busy(&failure) {
            return Err(Error::internal(format!("{doing}: {failure}")));
        }
        sleep(backoff).await;
        backoff *= 2;
        attempt += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn calls(answers: Vec<Result<i64, Error>>) -> (Result<i64>, usize) {
        let mut answers = answers.into_iter();
        let all = answers.len();
        let result = insist("calling", async || {
            let answer = answers.next().expect("no more calls than answers");
            answer.map(Response::new).map_err(Status::from)
        });
        let result = result.await;
        (result, all - answers.len())
    }

    #[tokio::test(start_paused = true)]
    async fn a_busy_server_is_asked_again() {
        let busy = || Err(Error::try_again("busy"));
        let (result, made) = calls(vec![busy(), busy(), Ok(7)]).await;
        assert_eq!((result.unwrap(), made), (7, 3));
        let (result, made) = calls((0..10).map(|_| busy()).collect()).await;
        assert_eq!((result.is_err(), made), (true, ATTEMPTS_MAX as usize));
    }

    #[tokio::test]
    async fn a_refusal_is_final() {
        let refused = Err(Error::bad_request("member_ids", "too many"));
        let (result, made) = calls(vec![refused, Ok(7)]).await;
        assert_eq!(made, 1);
        assert!(result.unwrap_err().to_string().contains("10001"));
    }
}
