//! Random plans of random actors against a model that knows the rules in other words: it makes the
//! group that would follow and asks whether there may be such a one.

use std::collections::BTreeMap;

use proptest::{collection::vec, option, prelude::*};

use super::*;

const MEMBERS_MAX: u64 = 5;
const LARGE_GROUPS_MAX: u64 = 3;

/// Roles by user.
type Group = BTreeMap<u8, Role>;

#[derive(Clone, Debug)]
enum Step {
    /// With the most large groups that one of the new members is in.
    Add(Vec<u8>, u64),
    Change(u8, Option<Role>),
    Remove(u8),
}

fn user() -> impl Strategy<Value = u8> {
    0..7_u8
}

fn step() -> impl Strategy<Value = Step> {
    let role = prop_oneof![Just(Role::Admin), Just(Role::Member)];
    prop_oneof![
        (vec(user(), 0..4), 0..=LARGE_GROUPS_MAX)
            .prop_map(|(users, in_large)| Step::Add(users, in_large)),
        (user(), option::of(role)).prop_map(|(user, role)| Step::Change(user, role)),
        user().prop_map(Step::Remove),
    ]
}

fn case(group: &Group, actor: u8, target: u8) -> Case {
    let admin_besides = |(user, role): (&u8, &Role)| *user != target && *role == Role::Admin;
    Case {
        actor: group.get(&actor).copied(),
        is_self: actor == target,
        target: group.get(&target).copied(),
        other_admin: group.iter().any(admin_besides),
        members: group.len() as u64,
    }
}

/// What the rules make of a step, carried out as the transactions do.
fn follow_rules(group: &Group, actor: u8, step: &Step) -> Result<Group> {
    let mut after = group.clone();
    match step {
        Step::Add(users, large_groups) => {
            administer(group.get(&actor).copied())?;
            for user in users {
                after.entry(*user).or_insert(Role::Member);
            }
            let room = Room {
                members: group.len() as u64,
                members_max: MEMBERS_MAX,
                large_groups: *large_groups,
                large_groups_max: LARGE_GROUPS_MAX,
            };
            admit((after.len() - group.len()) as u64, room)?;
        }
        Step::Change(user, wanted) => {
            after.insert(*user, change(case(group, actor, *user), *wanted)?);
        }
        Step::Remove(user) => {
            let removal = remove(case(group, actor, *user))?;
            after.remove(user);
            assert_eq!(removal == Removal::EndsGroup, after.is_empty());
        }
    }
    Ok(after)
}

/// The same in other words.
fn model(group: &Group, actor: u8, step: &Step) -> Result<Group, Code> {
    let mut after = group.clone();
    let (mut is_own_affair, mut is_about_a_member, mut is_welcome) = (false, true, true);
    match step {
        Step::Add(users, large_groups) => {
            after.extend(users.iter().map(|user| (*user, Role::Member)));
            after.extend(group);
            is_welcome = *large_groups < LARGE_GROUPS_MAX || after == *group;
        }
        Step::Change(user, wanted) => {
            is_about_a_member = group.contains_key(user);
            if let (Some(role), Some(wanted)) = (after.get_mut(user), wanted) {
                *role = *wanted;
            }
            is_own_affair = *user == actor && after == *group;
        }
        Step::Remove(user) => {
            is_about_a_member = after.remove(user).is_some();
            is_own_affair = *user == actor;
        }
    }
    let has_admin = after.values().any(|role| *role == Role::Admin);
    match group.get(&actor) {
        None => Err(Code::NotInGroup),
        Some(Role::Member) if !is_own_affair => Err(Code::NotAllowed),
        Some(_) if !is_about_a_member => Err(Code::NotInGroup),
        Some(_) if !has_admin && !after.is_empty() => Err(Code::NotAllowed),
        Some(_) if after.len() as u64 > MEMBERS_MAX || !is_welcome => Err(Code::GroupFull),
        Some(_) => Ok(after),
    }
}

proptest! {
    #[test]
    fn rules_are_those_of_the_model_and_leave_an_admin(
        plan in vec((user(), step()), 0..60),
    ) {
        let mut group = Group::from([(0, Role::Admin)]);
        for (actor, step) in plan {
            let judged = follow_rules(&group, actor, &step);
            match (judged, model(&group, actor, &step)) {
                (Ok(after), Ok(expected)) => {
                    prop_assert_eq!(&after, &expected, "{} does {:?}", actor, step);
                    let is_admin = group[&actor] == Role::Admin;
                    let touches_only_himself = || (0..7).all(|user| {
                        user == actor || after.get(&user) == group.get(&user)
                    });
                    prop_assert!(is_admin || touches_only_himself());
                    group = after;
                }
                (Err(error), Err(expected)) => prop_assert!(error.is(expected), "{error} for {expected:?}"),
                (judged, expected) => prop_assert!(false, "{actor} does {step:?}: {judged:?} for {expected:?}"),
            }
            if group.is_empty() {
                // It has ended, and there is another one.
                group.insert(actor, Role::Admin);
            }
            prop_assert!(group.values().any(|role| *role == Role::Admin));
            prop_assert!(group.len() as u64 <= MEMBERS_MAX);
        }
    }
}

#[test]
fn roles_are_columns_of_the_contract() {
    for (role, column) in [
        (Role::Admin, crate::pb::MemberType::GmtAdmin),
        (Role::Member, crate::pb::MemberType::GmtMember),
    ] {
        assert_eq!(i32::from(role.column()), column as i32);
        assert_eq!(Role::from_column(role.column()), role);
    }
}
