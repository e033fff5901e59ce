//! Who may become whose friend, without a database: what follows from a wish, given what the two
//! are to each other.

use crate::{
    error::{Code, Error, Result},
    store::friend::{Pair, Status},
};

/// What somebody wants of another user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    /// To become his friend.
    Add,
    /// To agree that he becomes one.
    Agree,
}

/// What follows from a wish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Nothing changes, and nobody is told.
    Stay,
    /// The other is asked.
    Ask,
    /// They are friends from now on; the other, who had asked, is told.
    Befriend,
}

/// What follows from a wish of somebody's, of whom `pair` is seen.
///
/// # Errors
/// 10015 when they are friends and need not ask; 10001 when there is nothing to agree to.
pub(super) fn step(wish: Wish, pair: Pair) -> Result<Step> {
    let are_friends = pair.mine == Some(Status::Agreed);
    let is_asked = pair.theirs == Some(Status::Asked);
    match wish {
        Wish::Add if are_friends => Err(Error::business(
            Code::FriendsAlready,
            "they are friends already",
        )),
        Wish::Agree if are_friends => Ok(Step::Stay),
        Wish::Add | Wish::Agree if is_asked => Ok(Step::Befriend),
        Wish::Add if pair.mine.is_some() => Ok(Step::Stay),
        Wish::Add => Ok(Step::Ask),
        Wish::Agree => Err(Error::bad_request("user_id", "he has not asked")),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::{collection::vec, prelude::*};

    use super::*;

    /// Two users, as rows of the database.
    #[derive(Default)]
    struct Rows([Option<Status>; 2]);

    impl Rows {
        /// What `user` does, and which step it was.
        fn wish(&mut self, user: usize, wish: Wish) -> Result<Step> {
            let other = 1 - user;
            let pair = Pair {
                mine: self.0[user],
                theirs: self.0[other],
            };
            let step = step(wish, pair)?;
            match step {
                Step::Stay => {}
                Step::Ask => self.0[user] = Some(Status::Asked),
                Step::Befriend => self.0 = [Some(Status::Agreed); 2],
            }
            Ok(step)
        }
    }

    /// Two users, told as a story.
    #[derive(Debug, Default)]
    struct Story {
        have_asked: BTreeSet<usize>,
        are_friends: bool,
    }

    impl Story {
        fn wish(&mut self, user: usize, wish: Wish) -> Result<Step, Code> {
            if self.are_friends {
                return match wish {
                    Wish::Add => Err(Code::FriendsAlready),
                    Wish::Agree => Ok(Step::Stay),
                };
            }
            if self.have_asked.contains(&(1 - user)) {
                self.are_friends = true;
                return Ok(Step::Befriend);
            }
            match wish {
                Wish::Agree => Err(Code::BadRequest),
                Wish::Add if self.have_asked.insert(user) => Ok(Step::Ask),
                Wish::Add => Ok(Step::Stay),
            }
        }
    }

    proptest! {
        #[test]
        fn friends_are_those_of_whom_one_asked_and_the_other_agreed(
            wishes in vec((0..2_usize, any::<bool>()), 0..12),
        ) {
            let (mut rows, mut story) = (Rows::default(), Story::default());
            let mut announced = Vec::new();
            for (user, is_add) in wishes {
                let wish = if is_add { Wish::Add } else { Wish::Agree };
                let step = rows.wish(user, wish).map_err(|error| error.code().unwrap());
                prop_assert_eq!(step, story.wish(user, wish));
                let is_friend = |row: &Option<Status>| *row == Some(Status::Agreed);
                prop_assert!(rows.0.iter().all(|row| is_friend(row) == story.are_friends));
                announced.extend(step.ok().filter(|step| *step != Step::Stay));
            }
            let told = [Step::Ask, Step::Befriend];
            prop_assert_eq!(&announced[..], &told[..announced.len()], "each is told once");
        }
    }

    /// On a database that orders writers only by locks on rows that are there.
    #[test]
    fn two_who_have_both_asked_become_friends_when_one_of_them_agrees() {
        let both = Pair {
            mine: Some(Status::Asked),
            theirs: Some(Status::Asked),
        };
        for wish in [Wish::Add, Wish::Agree] {
            assert_eq!(step(wish, both).unwrap(), Step::Befriend);
        }
    }
}
