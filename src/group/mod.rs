//! Groups and their members: checks fields, looks up who it is about, and has the writer make the
//! change. Who may do what stands in `rules`, the transactions in `changes`, what is told of them in
//! `announce`. Sending to a group is `message`'s matter.

use std::sync::Arc;

use crate::{
    check,
    clock::Clock,
    config,
    error::{Error, Result},
    id::{GroupId, UserId},
    limits::{
        AVATAR_URL_BYTES_MAX, EXTRA_BYTES_MAX, GROUP_CALL_USERS_MAX, GROUP_NAME_BYTES_MAX,
        INTRODUCTION_BYTES_MAX, MEMBERS_PAGE_MAX, REMARKS_BYTES_MAX,
    },
    members::Members,
    pb::{self, GroupType, MemberType},
    store::{self, Store, group::GroupKind, within_deadline},
    timeline::Writer,
    user::Directory,
};

mod announce;
mod changes;
mod rules;
#[cfg(test)]
mod tests;

pub use crate::store::group::{Details, Group};
use announce::Author;
use changes::{Add, Context, Create, People, Remove, Update, UpdateMember};
use rules::Role;

/// What [`Groups`] works with.
#[derive(Clone, Debug)]
pub struct Options {
    /// The database.
    pub store: Store,
    /// Makes changes and appends what announces them.
    pub writer: Writer,
    /// Who there is.
    pub directory: Arc<Directory>,
    /// What this instance remembers of members.
    pub members: Arc<Members>,
    /// Stamps changes.
    pub clock: Arc<dyn Clock>,
    /// Bounds of groups.
    pub limits: config::Groups,
}

/// Keeps groups.
#[derive(Debug)]
pub struct Groups {
    options: Options,
}

/// A group that is to be made.
#[derive(Clone, Debug, Default)]
pub struct NewGroup {
    /// `GroupType` of the contract.
    pub kind: i32,
    /// What it tells of itself.
    pub details: Details,
    /// Its members besides the creator.
    pub members: Vec<i64>,
}

/// What is to be kept of a member.
#[derive(Clone, Debug, Default)]
pub struct MemberDetails {
    /// `MemberType` of the contract; unknown: the role stays.
    pub member_type: i32,
    /// What he is called in the group.
    pub remarks: String,
    /// Whatever the business keeps with the membership.
    pub extra: String,
}

/// A page of a group's members.
#[derive(Clone, Debug)]
pub struct MembersPage {
    /// Ascending by user.
    pub members: Vec<pb::GroupMember>,
    /// There are more after the last one.
    pub has_more: bool,
}

impl Groups {
    /// Keeps groups with the given parts.
    #[must_use]
    pub const fn new(options: Options) -> Self {
        Self { options }
    }

    /// Makes a group whose first member and admin is `by`. Users who are not there are left out.
    ///
    /// # Errors
    /// 10001 naming the field, 10018 when so many do not fit, 10003 or 10004; so do all that change
    /// something.
    pub async fn create(&self, by: UserId, new: NewGroup) -> Result<GroupId> {
        let kind = match GroupType::try_from(new.kind) {
            Ok(GroupType::GtSmall) => GroupKind::Small,
            Ok(GroupType::GtLarge) => GroupKind::Large,
            Ok(GroupType::GtUnknown) | Err(_) => return Err(Error::bad_request("type", "unknown")),
        };
        check_details(&new.details)?;
        check_users("member_ids", &new.members)?;
        within_deadline(async {
            let mut users = new.members;
            users.push(by.get());
            let people = self.people(users).await?;
            let audience = audience(kind, people.len() as u64);
            self.options
                .writer
                .change(Create {
                    context: self.context(by, audience).await?,
                    kind,
                    details: new.details,
                    people,
                })
                .await
        })
        .await
    }

    /// Replaces what a group tells of itself.
    ///
    /// # Errors
    /// 10013, 10011 or 10002; see [`Groups::create`].
    pub async fn update(&self, by: UserId, group: GroupId, details: Details) -> Result<()> {
        check::id("group_id", group.get())?;
        check_details(&details)?;
        within_deadline(async {
            let (found, role) = self.look_at(group, by).await?;
            rules::administer(role)?;
            let change = Update {
                context: self.context(by, members_told(&found)).await?,
                group,
                details,
            };
            self.options.writer.change(change).await
        })
        .await
    }

    /// A group that `by` is in.
    ///
    /// # Errors
    /// 10001 naming the field, 10013, 10011, or 10004.
    pub async fn get(&self, by: UserId, group: GroupId) -> Result<Group> {
        check::id("group_id", group.get())?;
        within_deadline(async {
            let (found, role) = self.look_at(group, by).await?;
            rules::see(role)?;
            Ok(found)
        })
        .await
    }

    /// The groups that a user is in, by id.
    ///
    /// # Errors
    /// 10004.
    pub async fn of_user(&self, user: UserId) -> Result<Vec<Group>> {
        let conn = self.options.store.reader();
        within_deadline(async { Ok(store::group::of_user(conn, user).await?) }).await
    }

    /// Adds members, all of them or none; users who are not there are left out. Gives those of them
    /// who were members before, ascending.
    ///
    /// # Errors
    /// 10013, 10011 or 10002; see [`Groups::create`].
    pub async fn add(&self, by: UserId, group: GroupId, users: Vec<i64>) -> Result<Vec<UserId>> {
        check::id("group_id", group.get())?;
        check_users("user_ids", &users)?;
        within_deadline(async {
            let (found, role) = self.look_at(group, by).await?;
            rules::administer(role)?;
            let change = Add {
                context: self.context(by, members_told(&found)).await?,
                group,
                people: self.people(users).await?,
            };
            self.options.writer.change(change).await
        })
        .await
    }

    /// Replaces what is kept of a member: an admin of anyone, a member of himself but for his role.
    ///
    /// # Errors
    /// 10013, 10011 or 10002; see [`Groups::create`].
    pub async fn update_member(
        &self,
        by: UserId,
        group: GroupId,
        user: UserId,
        details: MemberDetails,
    ) -> Result<()> {
        check::id("group_id", group.get())?;
        check::id("user_id", user.get())?;
        let role = match MemberType::try_from(details.member_type) {
            Ok(MemberType::GmtUnknown) => None,
            Ok(MemberType::GmtAdmin) => Some(Role::Admin),
            Ok(MemberType::GmtMember) => Some(Role::Member),
            Err(_) => return Err(Error::bad_request("member_type", "unknown")),
        };
        check::text("remarks", &details.remarks, REMARKS_BYTES_MAX)?;
        check::text("extra", &details.extra, EXTRA_BYTES_MAX)?;
        within_deadline(async {
            let (_, actor) = self.look_at(group, by).await?;
            rules::approach(actor, user == by)?;
            let change = UpdateMember {
                context: self.context(by, 0).await?,
                group,
                user,
                role,
                remarks: details.remarks,
                extra: details.extra,
            };
            self.options.writer.change(change).await
        })
        .await
    }

    /// Removes a member; who removes himself leaves.
    ///
    /// # Errors
    /// 10013, 10011 or 10002; see [`Groups::create`].
    pub async fn remove(&self, by: UserId, group: GroupId, user: UserId) -> Result<()> {
        check::id("group_id", group.get())?;
        check::id("user_id", user.get())?;
        within_deadline(async {
            let (found, actor) = self.look_at(group, by).await?;
            rules::approach(actor, user == by)?;
            let change = Remove {
                context: self.context(by, members_told(&found)).await?,
                group,
                user,
            };
            self.options.writer.change(change).await
        })
        .await
    }

    /// The members of a group after a user, at most `limit`; 0: as many as a page may have.
    ///
    /// # Errors
    /// 10001 naming the field, 10013, 10011, or 10004.
    pub async fn members(
        &self,
        by: UserId,
        group: GroupId,
        after: UserId,
        limit: i32,
    ) -> Result<MembersPage> {
        check::id("group_id", group.get())?;
        check_not_negative("after_user_id", after.get())?;
        check_not_negative("limit", limit.into())?;
        let limit = match limit.unsigned_abs() as usize {
            0 => MEMBERS_PAGE_MAX,
            limit => limit.min(MEMBERS_PAGE_MAX),
        };
        within_deadline(async {
            let (_, role) = self.look_at(group, by).await?;
            rules::see(role)?;
            self.page(group, after, limit).await
        })
        .await
    }

    async fn page(&self, group: GroupId, after: UserId, limit: usize) -> Result<MembersPage> {
        let conn = self.options.store.reader();
        // One more than asked for tells whether there are more.
        let rows = store::group::members_page(conn, group, after, limit as u64 + 1);
        let mut rows = rows.await?;
        let has_more = rows.len() > limit;
        rows.truncate(limit);
        let users: Vec<UserId> = rows.iter().map(|row| UserId(row.user_id)).collect();
        let profiles = self.options.directory.profiles(&users).await?;
        let members = rows.into_iter().map(|row| {
            let profile = profiles.get(&UserId(row.user_id));
            announce::member(row, &profile.cloned().unwrap_or_default())
        });
        Ok(MembersPage {
            members: members.collect(),
            has_more,
        })
    }

    /// A group and the role in it of whoever asks, read without a lock: the writer is not kept busy
    /// by refusals. What it leads to is judged again in the change's transaction.
    async fn look_at(&self, group: GroupId, by: UserId) -> Result<(Group, Option<Role>)> {
        let conn = self.options.store.reader();
        let found = store::group::by_id(conn, group).await?;
        let found = found.ok_or_else(Error::no_such_group)?;
        let member = store::group::member(conn, group, by).await?;
        let role = member.map(|member| Role::from_column(member.member_type));
        Ok((found, role))
    }

    /// What a change by a user needs, that is announced on so many timelines.
    async fn context(&self, by: UserId, audience: usize) -> Result<Context> {
        let profile = self.options.directory.profile(by).await?;
        let profile = profile.ok_or_else(Error::sign_in_again)?;
        Ok(Context {
            author: Author {
                user: by,
                nickname: profile.nickname.clone(),
                now_ms: self.options.clock.now_ms(),
            },
            limits: self.options.limits.clone(),
            members: Arc::clone(&self.options.members),
            audience,
        })
    }

    /// Those of the named users that are there.
    async fn people(&self, users: Vec<i64>) -> Result<People> {
        let users: Vec<UserId> = users.into_iter().map(UserId).collect();
        let found = self.options.directory.profiles(&users).await?;
        let mut people: People = found.into_iter().collect();
        people.sort_unstable_by_key(|(user, _)| *user);
        Ok(people)
    }
}

/// On how many timelines an event of a group stands, about.
fn audience(kind: GroupKind, members: u64) -> usize {
    match kind {
        GroupKind::Small => usize::try_from(members).unwrap_or(usize::MAX),
        GroupKind::Large => 1,
    }
}

fn members_told(group: &Group) -> usize {
    audience(group.kind(), group.member_count.unsigned_abs())
}

fn check_details(details: &Details) -> Result<()> {
    check::text("name", &details.name, GROUP_NAME_BYTES_MAX)?;
    check::text("avatar_url", &details.avatar_url, AVATAR_URL_BYTES_MAX)?;
    check::text(
        "introduction",
        &details.introduction,
        INTRODUCTION_BYTES_MAX,
    )?;
    check::text("extra", &details.extra, EXTRA_BYTES_MAX)
}

/// Refuses more users than one call may name, and ids that cannot be a user's.
fn check_users(field: &str, users: &[i64]) -> Result<()> {
    if users.len() > GROUP_CALL_USERS_MAX {
        let why = format_args!("at most {GROUP_CALL_USERS_MAX} users");
        return Err(Error::bad_request(field, why));
    }
    users.iter().try_for_each(|user| check::id(field, *user))
}

fn check_not_negative(field: &str, number: i64) -> Result<()> {
    if number < 0 {
        return Err(Error::bad_request(field, "must not be negative"));
    }
    Ok(())
}
