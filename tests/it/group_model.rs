//! The rules of membership against a simple model: whatever users do to a group, each answer is the
//! one the model gives, and in the end the members, their roles and their number are the model's.
//! `IM_PLAN_SEED` replays a run.

use std::collections::BTreeMap;

use im::pb::{GroupType, MemberType, UpdateGroupMemberReq};
use rand::{Rng, SeedableRng, rngs::StdRng};

use crate::support::{
    Device, Server,
    crowd::ids,
    errors::{GROUP_IS_FULL, NO_SUCH_GROUP, NOT_ALLOWED, NOT_IN_GROUP, code},
    groups::Group,
};

const USERS: usize = 6;
const MEMBERS_MAX: usize = 4;
const STEPS: usize = 250;
const OK: i32 = 0;

/// One thing that one user tries.
#[derive(Clone, Debug)]
enum Step {
    Add(Vec<i64>),
    Remove(i64),
    SetRole(i64, MemberType),
    Send,
}

/// Who is in the group, and who of them is admin.
#[derive(Clone, Debug, Default)]
struct Model {
    admins: BTreeMap<i64, bool>,
}

impl Model {
    fn is_admin(&self, user: i64) -> bool {
        self.admins.get(&user).copied().unwrap_or(false)
    }

    /// The only admin of a group that has others.
    fn is_needed(&self, user: i64) -> bool {
        let admins = self.admins.values().filter(|admin| **admin).count();
        self.is_admin(user) && admins == 1 && self.admins.len() > 1
    }

    /// The answer to a step, and what it changes.
    fn step(&mut self, by: i64, step: &Step) -> i32 {
        if self.admins.is_empty() {
            return NO_SUCH_GROUP;
        }
        if !self.admins.contains_key(&by) {
            return NOT_IN_GROUP;
        }
        match step {
            Step::Send => OK,
            Step::Add(users) => self.add(by, users),
            Step::Remove(user) => self.remove(by, *user),
            Step::SetRole(user, role) => self.set_role(by, *user, *role),
        }
    }

    fn add(&mut self, by: i64, users: &[i64]) -> i32 {
        if !self.is_admin(by) {
            return NOT_ALLOWED;
        }
        let mut after = self.admins.clone();
        for user in users {
            after.entry(*user).or_insert(false);
        }
        if after.len() > MEMBERS_MAX {
            return GROUP_IS_FULL;
        }
        self.admins = after;
        OK
    }

    fn remove(&mut self, by: i64, user: i64) -> i32 {
        if user != by && !self.is_admin(by) {
            return NOT_ALLOWED;
        }
        if !self.admins.contains_key(&user) {
            return NOT_IN_GROUP;
        }
        if user == by && self.is_needed(by) {
            return NOT_ALLOWED;
        }
        self.admins.remove(&user);
        OK
    }

    fn set_role(&mut self, by: i64, user: i64, role: MemberType) -> i32 {
        if !self.is_admin(by) {
            // A member may change his own remarks and extra, and no role.
            let own = user == by && role == MemberType::GmtUnknown;
            return if own { OK } else { NOT_ALLOWED };
        }
        if !self.admins.contains_key(&user) {
            return NOT_IN_GROUP;
        }
        if role == MemberType::GmtMember && self.is_needed(user) {
            return NOT_ALLOWED;
        }
        if role != MemberType::GmtUnknown {
            self.admins.insert(user, role == MemberType::GmtAdmin);
        }
        OK
    }
}

fn random_step(random: &mut StdRng, by: i64, users: &[i64]) -> Step {
    let mut anybody = || users[random.random_range(0..users.len())];
    let (one, other) = (anybody(), anybody());
    match random.random_range(0..10) {
        0..4 => Step::Add(vec![one, other]),
        4..6 => Step::Remove(one),
        6 => Step::Remove(by),
        7 => Step::SetRole(one, MemberType::GmtAdmin),
        // What a member is answered who makes himself what he is, the contract leaves open.
        8 if one != by => Step::SetRole(one, MemberType::GmtMember),
        9 => Step::SetRole(one, MemberType::GmtUnknown),
        _ => Step::Send,
    }
}

async fn answer(server: &Server, by: &Device, group: Group, step: &Step) -> i32 {
    let result = match step.clone() {
        Step::Add(users) => server.add_members(by, group.id, &users).await.map(drop),
        Step::Remove(user) => server.remove_member(by, group.id, user).await,
        Step::Send => server.try_send(by, group.text("x")).await.map(drop),
        Step::SetRole(user_id, role) => {
            let request = UpdateGroupMemberReq {
                group_id: group.id,
                user_id,
                member_type: role.into(),
                ..Default::default()
            };
            server.update_member(by, request).await
        }
    };
    result.as_ref().map_or_else(code, |()| OK)
}

async fn every_answer_is_the_models(kind: GroupType) {
    let seed = std::env::var("IM_PLAN_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(rand::random::<u64>);
    println!("IM_PLAN_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let server = Server::with(|config| {
        config.groups.small_members_max = MEMBERS_MAX as u64;
        config.groups.large_members_max = MEMBERS_MAX as u64;
    })
    .await;
    let users = server.new_users(USERS).await;
    let all = ids(&users);
    let mut groups: Vec<(Group, Model)> = Vec::new();
    for step_number in 0..STEPS {
        // A group that has ended is tried once in a while, and a new one takes its place.
        if groups
            .last()
            .is_none_or(|(_, model)| model.admins.is_empty())
        {
            let group = server.create_group(&users[0], kind, &[]).await;
            let mut model = Model::default();
            model.admins.insert(all[0], true);
            groups.push((group, model));
        }
        let last = groups.len() - 1;
        let at = match random.random_range(0..10) {
            0 => random.random_range(0..=last),
            _ => last,
        };
        let (group, model) = &mut groups[at];
        let by = &users[random.random_range(0..USERS)];
        let step = random_step(&mut random, by.user_id, &all);
        let before = model.clone();
        let expected = model.step(by.user_id, &step);
        let answered = answer(&server, by, *group, &step).await;
        assert_eq!(
            answered, expected,
            "step {step_number}, {step:?} by {} in {before:?}",
            by.user_id
        );
        let Some((witness, _)) = model.admins.first_key_value() else {
            continue;
        };
        let witness = users.iter().find(|user| user.user_id == *witness);
        let witness = witness.expect("one of the users");
        let members = server.members(witness, group.id).await;
        let members = members
            .iter()
            .map(|m| (m.user_id, m.member_type() == MemberType::GmtAdmin));
        assert_eq!(
            members.collect::<BTreeMap<_, _>>(),
            model.admins,
            "{step:?}"
        );
        let description = server.group(witness, group.id).await.expect("GetGroup");
        assert_eq!(description.user_mum as usize, model.admins.len());
    }
    for user in &users {
        let own = groups
            .iter()
            .filter(|(_, model)| model.admins.contains_key(&user.user_id));
        let mut own: Vec<_> = own.map(|(group, _)| group.id).collect();
        own.sort_unstable();
        assert_eq!(server.groups(user).await, own);
    }
}

#[tokio::test]
async fn every_answer_about_a_small_group_is_the_models() {
    every_answer_is_the_models(GroupType::GtSmall).await;
}

#[tokio::test]
async fn every_answer_about_a_large_group_is_the_models() {
    every_answer_is_the_models(GroupType::GtLarge).await;
}
