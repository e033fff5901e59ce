//! The transactions of the domain. Each locks the group's row first, reads what the rules judge,
//! writes, raises the group's version where its members change, and is announced. So a change and
//! the positions of its events are one, and a message goes to exactly those who are members then.

use std::{collections::HashSet, sync::Arc};

use super::{
    announce::{self, Announcer, Author},
    rules::{self, Case, Removal, Role, Room},
};
use crate::{
    config,
    error::Error,
    id::{GroupId, Owner, Seq, UserId},
    members::Members,
    pb,
    store::{
        self, Conn, Outcome, Tx,
        group::{Details, Group, GroupKind, Member},
    },
    timeline::{Applied, Change, Stop},
    user::Profile,
};

/// What every change needs.
#[derive(Clone, Debug)]
pub(super) struct Context {
    /// Who makes it.
    pub(super) author: Author,
    /// Bounds of groups.
    pub(super) limits: config::Groups,
    /// What this instance remembers of members.
    pub(super) members: Arc<Members>,
    /// Timelines on which the change is expected to be announced.
    pub(super) audience: usize,
}

/// Users who are to become members, ascending, each once.
pub(super) type People = Vec<(UserId, Arc<Profile>)>;

/// Makes a group.
pub(super) struct Create {
    pub(super) context: Context,
    pub(super) kind: GroupKind,
    pub(super) details: Details,
    /// Its members, the creator among them.
    pub(super) people: People,
}

/// Replaces what a group tells of itself.
pub(super) struct Update {
    pub(super) context: Context,
    pub(super) group: GroupId,
    pub(super) details: Details,
}

/// Adds members; the answer is who was one before.
pub(super) struct Add {
    pub(super) context: Context,
    pub(super) group: GroupId,
    pub(super) people: People,
}

/// Replaces what is kept of a member; nothing announces it.
pub(super) struct UpdateMember {
    pub(super) context: Context,
    pub(super) group: GroupId,
    pub(super) user: UserId,
    /// `None`: the role stays.
    pub(super) role: Option<Role>,
    pub(super) remarks: String,
    pub(super) extra: String,
}

/// Removes a member, or lets him leave.
pub(super) struct Remove {
    pub(super) context: Context,
    pub(super) group: GroupId,
    pub(super) user: UserId,
}

impl Change for Create {
    type Output = GroupId;

    fn by(&self) -> UserId {
        self.context.author.user
    }

    fn rows(&self) -> usize {
        self.context.rows(self.people.len())
    }

    fn bytes(&self) -> usize {
        self.details.bytes() + size_of_val(&*self.people)
    }

    async fn apply(&self, tx: &Tx) -> Result<Applied<GroupId>, Stop> {
        let (conn, context) = (tx.conn(), &self.context);
        context.admit(conn, self.kind, 0, &self.people).await?;
        let now_ms = context.author.now_ms;
        let group = store::group::insert(conn, self.kind, self.details.clone(), now_ms).await?;
        let announcer = context.join(conn, &group, &self.people, Some(self.by()));
        let (announcer, members) = announcer.await?;
        Ok(Applied {
            output: GroupId(group.id),
            announcements: announcer.added(members),
        })
    }

    fn committed(&self, group: &GroupId) {
        self.context.members.changed(*group, None);
    }
}

impl Change for Update {
    type Output = ();

    fn by(&self) -> UserId {
        self.context.author.user
    }

    fn rows(&self) -> usize {
        self.context.rows(0)
    }

    fn bytes(&self) -> usize {
        self.details.bytes()
    }

    async fn apply(&self, tx: &Tx) -> Result<Applied<()>, Stop> {
        let (conn, context) = (tx.conn(), &self.context);
        let (group, actor) = lock(conn, self.group, self.by()).await?;
        rules::administer(actor)?;
        let now_ms = context.author.now_ms;
        store::group::describe(conn, self.group, self.details.clone(), now_ms).await?;
        let announcer = context.announcer(conn, &group).await?;
        Ok(Applied {
            output: (),
            announcements: announcer.updated(&self.details),
        })
    }

    fn committed(&self, (): &()) {}
}

impl Change for Add {
    type Output = Vec<UserId>;

    fn by(&self) -> UserId {
        self.context.author.user
    }

    fn rows(&self) -> usize {
        self.context.rows(self.people.len())
    }

    fn bytes(&self) -> usize {
        size_of_val(&*self.people)
    }

    async fn apply(&self, tx: &Tx) -> Result<Applied<Vec<UserId>>, Stop> {
        let (conn, context) = (tx.conn(), &self.context);
        let (group, actor) = lock(conn, self.group, self.by()).await?;
        rules::administer(actor)?;
        let asked: Vec<UserId> = self.people.iter().map(|(user, _)| *user).collect();
        let mut present = store::group::members_among(conn, self.group, &asked).await?;
        present.sort_unstable();
        let known: HashSet<UserId> = present.iter().copied().collect();
        let is_new = |(user, _): &&(UserId, _)| !known.contains(user);
        let newcomers: People = self.people.iter().filter(is_new).cloned().collect();
        if newcomers.is_empty() {
            return Ok(Applied {
                output: present,
                announcements: Vec::new(),
            });
        }
        let members = group.member_count.unsigned_abs();
        context
            .admit(conn, group.kind(), members, &newcomers)
            .await?;
        let (announcer, members) = context.join(conn, &group, &newcomers, None).await?;
        Ok(Applied {
            output: present,
            announcements: announcer.added(members),
        })
    }

    fn committed(&self, _: &Vec<UserId>) {
        self.context.members.changed(self.group, None);
    }
}

impl Change for UpdateMember {
    type Output = ();

    fn by(&self) -> UserId {
        self.context.author.user
    }

    fn rows(&self) -> usize {
        1
    }

    fn bytes(&self) -> usize {
        self.remarks.len() + self.extra.len()
    }

    async fn apply(&self, tx: &Tx) -> Result<Applied<()>, Stop> {
        let (conn, context) = (tx.conn(), &self.context);
        let (group, actor) = lock(conn, self.group, self.by()).await?;
        let target = store::group::member(conn, self.group, self.user).await?;
        let case = context.case(conn, &group, actor, self.user, target.as_ref());
        let role = rules::change(case.await?, self.role)?;
        let member = Member {
            member_type: role.column(),
            remarks: self.remarks.clone(),
            extra: self.extra.clone(),
            ..target.ok_or_else(Error::not_in_group)?
        };
        store::group::update_member(conn, &member, context.author.now_ms).await?;
        Ok(Applied {
            output: (),
            announcements: Vec::new(),
        })
    }

    fn committed(&self, (): &()) {}
}

impl Change for Remove {
    type Output = ();

    fn by(&self) -> UserId {
        self.context.author.user
    }

    fn rows(&self) -> usize {
        self.context.rows(1)
    }

    fn bytes(&self) -> usize {
        0
    }

    async fn apply(&self, tx: &Tx) -> Result<Applied<()>, Stop> {
        let (conn, context) = (tx.conn(), &self.context);
        let (group, actor) = lock(conn, self.group, self.by()).await?;
        let target = store::group::member(conn, self.group, self.user).await?;
        let case = context.case(conn, &group, actor, self.user, target.as_ref());
        let removal = rules::remove(case.await?)?;
        store::group::delete_member(conn, self.group, self.user).await?;
        match removal {
            Removal::Leaves => {
                store::group::touch(conn, self.group, -1, context.author.now_ms).await?;
            }
            Removal::EndsGroup => store::group::delete(conn, self.group).await?,
        }
        let mut announcer = context.announcer(conn, &group).await?;
        if group.kind() == GroupKind::Small {
            announcer.audience.push(Owner::User(self.user));
        }
        Ok(Applied {
            output: (),
            announcements: announcer.removed(self.user),
        })
    }

    fn committed(&self, (): &()) {
        self.context.members.changed(self.group, Some(self.user));
    }
}

impl Context {
    /// Rows of a change that names so many users.
    fn rows(&self, users: usize) -> usize {
        (1 + 2 * users).saturating_add(self.audience)
    }

    /// Judges whether new members fit into a group that has so many.
    async fn admit(
        &self,
        conn: &impl Conn,
        kind: GroupKind,
        members: u64,
        newcomers: &People,
    ) -> Result<(), Stop> {
        let mut room = Room {
            members,
            members_max: self.limits.small_members_max,
            large_groups: 0,
            large_groups_max: self.limits.large_groups_per_user_max,
        };
        if kind == GroupKind::Large {
            let users: Vec<UserId> = newcomers.iter().map(|(user, _)| *user).collect();
            let counts = store::group::large_counts(conn, &users).await?;
            room.members_max = self.limits.large_members_max;
            room.large_groups = counts.into_values().max().unwrap_or_default();
        }
        Ok(rules::admit(newcomers.len() as u64, room)?)
    }

    /// Writes new members, and gives what announces them and how they are shown.
    async fn join(
        &self,
        conn: &impl Conn,
        group: &Group,
        newcomers: &People,
        admin: Option<UserId>,
    ) -> Outcome<(Announcer<'_>, Vec<pb::GroupMember>)> {
        let id = GroupId(group.id);
        let joined = match group.kind() {
            GroupKind::Small => None,
            GroupKind::Large => Some(head(conn, id).await?),
        };
        let now_ms = self.author.now_ms;
        let rows = newcomers.iter().map(|(user, _)| Member {
            group_id: id.get(),
            user_id: user.get(),
            member_type: if admin == Some(*user) {
                Role::Admin.column()
            } else {
                Role::Member.column()
            },
            remarks: String::new(),
            extra: String::new(),
            join_seq: joined.map(Seq::get),
            created_at: now_ms,
            updated_at: now_ms,
        });
        let rows: Vec<Member> = rows.collect();
        store::group::insert_members(conn, rows.clone()).await?;
        store::group::touch(conn, id, rows.len() as i64, now_ms).await?;
        let shown = rows.into_iter().zip(newcomers);
        let shown = shown.map(|(row, (_, profile))| announce::member(row, profile));
        Ok((self.announcer(conn, group).await?, shown.collect()))
    }

    /// What announces changes of a group to those who are its members now.
    async fn announcer(&self, conn: &impl Conn, group: &Group) -> Outcome<Announcer<'_>> {
        let id = GroupId(group.id);
        let audience = match group.kind() {
            GroupKind::Small => {
                let members = store::group::member_ids(conn, id).await?;
                members.into_iter().map(Owner::User).collect()
            }
            GroupKind::Large => vec![Owner::Group(id)],
        };
        Ok(Announcer {
            author: &self.author,
            group: id,
            kind: group.kind(),
            audience,
        })
    }

    /// What the rules judge when a member is to be changed or removed.
    async fn case(
        &self,
        conn: &impl Conn,
        group: &Group,
        actor: Option<Role>,
        user: UserId,
        target: Option<&Member>,
    ) -> Outcome<Case> {
        let admin = Role::Admin.column();
        let other_admin = store::group::has_other(conn, GroupId(group.id), admin, user).await?;
        Ok(Case {
            actor,
            is_self: user == self.author.user,
            target: target.map(|member| Role::from_column(member.member_type)),
            other_admin,
            members: group.member_count.unsigned_abs(),
        })
    }
}

/// A group, its row locked, and the role in it of whoever asks.
async fn lock(conn: &impl Conn, id: GroupId, actor: UserId) -> Result<(Group, Option<Role>), Stop> {
    let group = store::group::lock(conn, id).await?;
    let group = group.ok_or_else(Error::no_such_group)?;
    let actor = store::group::member(conn, id, actor).await?;
    let role = actor.map(|member| Role::from_column(member.member_type));
    Ok((group, role))
}

/// The head of a large group's timeline.
async fn head(conn: &impl Conn, group: GroupId) -> Outcome<Seq> {
    let owner = Owner::Group(group);
    let heads = store::timeline::heads_raw(conn, &[owner]).await?;
    Ok(heads.get(&owner).copied().unwrap_or_default())
}
