//! Sessions on a real database, driven step by step: what they follow as memberships change, what
//! waits for a sync, and under random plans who is given what.

use std::{sync::atomic::Ordering, time::Duration};

use self::site::{Client, Site, content};
use super::*;
use crate::{
    id::{GroupId, RoomId},
    limits::MEMBERSHIP_LOADS_MAX,
    pb::ReceiverType,
};

mod plan;
mod site;

const USER: UserId = UserId(1);
const OWN: Owner = Owner::User(USER);
const GROUP: GroupId = GroupId(1);
const OTHER: GroupId = GroupId(2);

const fn of(group: GroupId) -> Owner {
    Owner::Group(group)
}

/// True while nobody follows a group here.
fn is_unfollowed(site: &Site, group: GroupId) -> bool {
    site.gateway.router.feed(Topic::Group(group)).is_none()
}

#[tokio::test]
async fn member_is_pushed_his_groups_from_his_sign_in_on() {
    let site = Site::new().await;
    site.say(of(GROUP), "before joining");
    site.join(GROUP, USER);
    site.join(OTHER, USER);
    site.say(of(GROUP), "missed");
    let mut client = site.client(USER).await;
    let stranger = site.client(UserId(2)).await;
    site.say(of(GROUP), "one");
    site.say(of(OTHER), "other");
    site.say(of(GROUP), "two");
    client.until_given("two").await;
    assert_eq!(client.group_seqs(GROUP), [4, 5]);
    assert!(!stranger.follows(GROUP));
    let feeds = || site.gateway.router.feeds().len();
    assert_eq!(feeds(), 2 + 2 + 1, "groups, users, everyone");
    drop((client, stranger));
    assert_eq!(feeds(), 0);
}

#[tokio::test]
async fn user_who_is_added_is_pushed_the_group_from_the_news_on() {
    let site = Site::new().await;
    let mut client = site.client(USER).await;
    site.say(of(GROUP), "before");
    let joined = site.join(GROUP, USER);
    assert_eq!(joined, Seq(1));
    site.say(of(GROUP), "after");
    client.until_given("after").await;
    assert_eq!(client.group_seqs(GROUP), [2, 3]);
    site.join(OTHER, USER);
    site.say(of(OTHER), "another");
    client.until_given("another").await;
    let to_him = client.given.iter();
    let notices = to_him.filter(|m| m.receiver_type == ReceiverType::RtUser as i32);
    assert!(notices.map(|m| m.receiver_id).eq([USER.get(); 2]));
}

/// I8.
#[tokio::test]
async fn user_who_was_removed_is_given_nothing_more() {
    let site = Site::new().await;
    site.join(GROUP, USER);
    site.join(OTHER, USER);
    let mut client = site.client(USER).await;
    site.say(of(GROUP), "member");
    let removal = site.leave(GROUP, USER);
    site.say(of(GROUP), "secret");
    site.whisper(Topic::Group(GROUP), "secret whisper");
    client.until("it goes on", |c| !c.follows(GROUP)).await;
    assert!(is_unfollowed(&site, GROUP));
    site.say(of(OTHER), "other");
    client.until_given("other").await;
    assert_eq!(client.words(), ["member", "other"]);
    assert!(
        client
            .group_seqs(GROUP)
            .iter()
            .all(|seq| *seq <= removal.get())
    );
    assert_eq!(client.link.head(of(GROUP)), None, "no acks for it");
}

/// A message is given to exactly those who were members at its position, however late their
/// sessions come to it.
#[tokio::test]
async fn user_who_was_removed_is_given_what_stands_before_that() {
    let site = Site::new().await;
    site.join(GROUP, USER);
    let mut client = site.client(USER).await;
    let words: Vec<String> = (0..200).map(|n| format!("member {n}")).collect();
    for word in &words {
        site.say(of(GROUP), word);
    }
    // He learns of his removal by his own timeline first.
    let removal = site.leave(GROUP, USER);
    site.say(of(GROUP), "secret");
    client.until("it goes on", |c| !c.follows(GROUP)).await;
    assert_eq!(client.words(), words);
    let last = client.group_seqs(GROUP).last().copied();
    assert_eq!(last, Some(removal.get()));

    // The same with a coming back.
    site.join(GROUP, USER);
    client.until("it is followed", |c| c.follows(GROUP)).await;
    for word in &words {
        site.say(of(GROUP), word);
    }
    site.leave(GROUP, USER);
    site.say(of(GROUP), "secret");
    site.join(GROUP, USER);
    site.say(of(GROUP), "again");
    client.until_given("again").await;
    let twice: Vec<_> = words
        .iter()
        .chain(&words)
        .map(String::as_str)
        .chain(["again"])
        .collect();
    assert_eq!(client.words(), twice);
}

/// The session sleeps meanwhile, so that it learns of both at once.
#[tokio::test]
async fn user_who_was_added_and_removed_at_once_is_given_what_stands_between() {
    let site = Site::new().await;
    let mut client = site.client(USER).await;
    let mut expected = Vec::new();
    for round in 0..3 {
        site.say(of(GROUP), "before");
        // Twice in the last round.
        for time in 0..=round / 2 {
            let word = format!("member {round} {time}");
            site.join(GROUP, USER);
            site.say(of(GROUP), &word);
            site.leave(GROUP, USER);
            site.say(of(GROUP), "secret");
            site.whisper(Topic::Group(GROUP), "secret whisper");
            expected.push(word);
        }
        let all = expected.len();
        client
            .until("all is given", |c| c.words().len() >= all)
            .await;
        client.until("it goes on", |c| !c.follows(GROUP)).await;
    }
    assert_eq!(client.words(), expected);
    assert!(is_unfollowed(&site, GROUP));
}

/// The session sleeps meanwhile, so that it finds the removal and what came after it at once.
#[tokio::test]
async fn user_who_left_and_came_back_misses_what_came_between() {
    let site = Site::new().await;
    site.join(GROUP, USER);
    let mut client = site.client(USER).await;
    site.say(of(GROUP), "member");
    site.leave(GROUP, USER);
    site.say(of(GROUP), "secret");
    site.whisper(Topic::Group(GROUP), "secret whisper");
    let joined = site.join(GROUP, USER);
    site.say(of(GROUP), "again");
    client.until_given("again").await;
    assert_eq!(client.words(), ["member", "again"]);
    assert_eq!(
        client.group_seqs(GROUP),
        [2, 3, joined.get() + 1, joined.get() + 2]
    );
}

#[tokio::test]
async fn membership_that_changes_while_it_is_loaded_is_loaded_again() {
    let site = Site::new().await;
    let mut client = site.client(USER).await;
    for round in 0..20 {
        site.join(GROUP, USER);
        client.turn(Duration::ZERO).await;
        site.leave(GROUP, USER);
        site.say(of(GROUP), "secret");
        client.turn(Duration::ZERO).await;
        site.join(GROUP, USER);
        let word = format!("member {round}");
        site.say(of(GROUP), &word);
        client.until_given(&word).await;
        site.leave(GROUP, USER);
    }
    client.until("it goes on", |c| !c.follows(GROUP)).await;
    assert!(!client.words().contains(&"secret".into()));
}

/// What came before a load began is decided by it, whatever comes after.
#[tokio::test]
async fn constant_changes_do_not_keep_a_group_waiting() {
    let site = Site::new().await;
    site.join(GROUP, USER);
    let mut client = site.client(USER).await;
    site.leave(GROUP, USER);
    site.join(GROUP, USER);
    site.say(of(GROUP), "again");
    for _ in 0..1_000 {
        client.link.memberships.outdate();
        client.turn(Duration::from_millis(5)).await;
    }
    assert_eq!(client.words(), ["again"]);
}

/// Somebody may have thousands of groups, and many devices.
#[tokio::test]
async fn few_sessions_load_memberships_at_a_time_and_nothing_else_waits() {
    let site = Site::new().await;
    let mut client = site.client(USER).await;
    let turns = Arc::clone(&site.gateway.load_turns.0);
    let others = turns.acquire_many_owned(MEMBERSHIP_LOADS_MAX as u32).await;
    site.join(GROUP, USER);
    for round in 0..20 {
        let word = format!("own {round}");
        site.say(OWN, &word);
        client.until_given(&word).await;
        assert!(!client.follows(GROUP));
    }
    // What changes while it waits for its turn is loaded with the rest.
    site.join(OTHER, USER);
    drop(others);
    client.until("it follows", |c| c.follows(GROUP)).await;
    assert!(client.follows(OTHER));
}

/// What the device says it holds was not seen by this session: it may have been a change.
#[tokio::test]
async fn news_that_a_sync_skips_is_not_missed() {
    let site = Site::new().await;
    let mut client = site.client(USER).await;
    client.link.hold(std::iter::empty());
    site.join(GROUP, USER);
    let page = client.sync(Seq(1), &[]).await;
    assert!(page.messages.is_empty());
    site.say(of(GROUP), "news");
    client.until_given("news").await;
    assert_eq!(client.group_seqs(GROUP), [1, 2]);
}

#[tokio::test]
async fn news_in_a_page_counts() {
    let site = Site::new().await;
    let mut client = site.client(USER).await;
    site.join(GROUP, USER);
    let page = client.sync(Seq::ZERO, &[]).await;
    assert_eq!(page.messages.len(), 1);
    site.say(of(GROUP), "news");
    client.until_given("news").await;
    assert_eq!(client.group_seqs(GROUP), [1, 2]);
}

/// It was added a moment ago and asks for the group before the server has followed it.
#[tokio::test]
async fn group_that_was_synced_before_it_is_followed_is_not_given_twice() {
    let site = Site::new().await;
    let mut client = site.client(USER).await;
    site.join(GROUP, USER);
    site.say(of(GROUP), "synced");
    let page = client.sync(Seq::ZERO, &[(GROUP, Seq::ZERO)]).await;
    assert_eq!(page.groups[0].messages.len(), 2);
    site.say(of(GROUP), "pushed");
    client.until_given("pushed").await;
    assert_eq!(client.group_seqs(GROUP), [3]);
}

/// A page may have no room for a group that one before it gave a part of.
#[tokio::test]
async fn what_was_synced_of_a_group_before_it_is_followed_is_not_forgotten() {
    let site = Site::new().await;
    let mut client = site.client(USER).await;
    site.join(GROUP, USER);
    site.say(of(GROUP), "synced");
    let asked = [(GROUP, Seq::ZERO)];
    let mut page = client.begin_sync(Seq::ZERO, &asked).await;
    client.link.synced(&page.ends);
    assert_eq!(client.link.head(of(GROUP)), Some(Seq(2)), "acks count");
    for group in &mut page.ends.groups {
        (group.end, group.is_unfinished) = (None, true);
    }
    client.link.synced(&page.ends);
    client.link.release();
    site.say(of(GROUP), "pushed");
    client.until_given("pushed").await;
    assert_eq!(client.group_seqs(GROUP), [3]);
}

/// 60 messages in two groups: the first page has one and a part of the other.
async fn in_mid_sync(site: &Site) -> Client {
    for group in [GROUP, OTHER] {
        site.join(group, USER);
        for _ in 0..29 {
            site.say(of(group), "missed");
        }
    }
    let mut client = site.client(USER).await;
    let groups = [(GROUP, Seq::ZERO), (OTHER, Seq::ZERO)];
    let page = client.sync(Seq(2), &groups).await;
    let parts: Vec<_> = page
        .groups
        .iter()
        .map(|g| (g.messages.len(), g.has_more))
        .collect();
    assert_eq!(parts, [(30, false), (20, true)]);
    assert!(page.has_more);
    client
}

#[tokio::test]
async fn timeline_whose_last_page_was_given_goes_on_while_others_wait() {
    let site = Site::new().await;
    let mut client = in_mid_sync(&site).await;
    site.say(of(OTHER), "held");
    site.say(of(GROUP), "released");
    client.until_given("released").await;
    site.say(OWN, "own");
    client.until_given("own").await;
    assert_eq!(client.group_seqs(OTHER), Vec::<i64>::new());
    assert_eq!(client.group_seqs(GROUP), [31]);

    let page = client.sync(Seq(3), &[(OTHER, Seq(20))]).await;
    assert!(!page.has_more);
    site.say(of(OTHER), "pushed");
    client.until_given("pushed").await;
    assert_eq!(client.group_seqs(OTHER), [32]);
}

#[tokio::test]
async fn group_that_is_not_asked_for_any_more_goes_on_from_its_page() {
    let site = Site::new().await;
    let mut client = in_mid_sync(&site).await;
    client.sync(Seq(2), &[(GROUP, Seq(30))]).await;
    site.say(of(OTHER), "pushed");
    client.until_given("pushed").await;
    assert_eq!(client.group_seqs(OTHER), (21..=31).collect::<Vec<_>>());
}

#[tokio::test]
async fn sync_that_is_given_up_releases_everything() {
    let site = Site::new().await;
    let mut client = in_mid_sync(&site).await;
    client.link.release();
    client
        .until("30 of the other", |c| c.group_seqs(OTHER).len() == 10)
        .await;
    assert_eq!(client.group_seqs(OTHER), (21..=30).collect::<Vec<_>>());
}

#[tokio::test]
async fn group_that_is_not_named_is_never_held() {
    let site = Site::new().await;
    for group in [GROUP, OTHER] {
        site.join(group, USER);
    }
    let mut client = site.client(USER).await;
    let page = client.begin_sync(Seq(2), &[(GROUP, Seq(1))]).await;
    for owner in [OWN, of(GROUP), of(OTHER)] {
        site.say(owner, &format!("to {owner:?}"));
    }
    client.until_given(&format!("to {:?}", of(OTHER))).await;
    assert_eq!(client.words().len(), 1);
    client.link.synced(&page.ends);
    client.until("the others", |c| c.words().len() == 3).await;
}

#[tokio::test]
async fn room_is_left_for_another_and_for_none() {
    let site = Site::new().await;
    let mut client = site.client(USER).await;
    let device = client.link.device();
    let room = || site.gateway.registry.room(device);
    let say = |id: i64, words: &str| site.whisper(Topic::Room(RoomId(id)), words);
    assert_eq!(room(), None);
    client.enter(Some(RoomId(7))).await;
    assert_eq!(room(), Some(RoomId(7)));
    say(7, "first");
    client.enter(Some(RoomId(7))).await;
    say(7, "still there");
    client.until_given("still there").await;
    client.enter(Some(RoomId(8))).await;
    assert_eq!(room(), Some(RoomId(8)));
    say(7, "left");
    say(8, "second");
    client.until_given("second").await;
    client.enter(None).await;
    assert_eq!(room(), None);
    say(8, "left");
    site.say(OWN, "last");
    client.until_given("last").await;
    assert_eq!(client.words(), ["first", "still there", "second", "last"]);
    let feeds = site.gateway.router.feeds();
    assert!(
        feeds
            .iter()
            .all(|feed| !matches!(feed.topic(), Topic::Room(_)))
    );
}

#[tokio::test]
async fn what_goes_to_everyone_names_each_reader() {
    let site = Site::new().await;
    for user in [1, 2] {
        let mut client = site.client(UserId(user)).await;
        let message = content(ReceiverType::RtUser, 0, b"all");
        site.publish(Topic::Everyone, Seq::ZERO, message);
        client.until_given("all").await;
        assert_eq!(client.given.len(), 1);
        assert_eq!(
            (client.given[0].receiver_id, client.given[0].seq),
            (user, 0)
        );
    }
}

/// I7: it has to sign in anew, and until then the older one has what it needs.
#[tokio::test]
async fn session_that_cannot_follow_its_groups_replaces_nobody() {
    let site = Site::new().await;
    site.join(GROUP, USER);
    let (device, token) = site.device(USER).await;
    let older = site.sign_in(USER, device, &token).await.unwrap();
    site.bridge.holds_groups.store(true, Ordering::SeqCst);
    tokio::select! {
        _ = site.sign_in(USER, device, &token) => panic!("it cannot follow its groups"),
        () = site.bridge.held.notified() => {}
    }
    assert_eq!(older.link.handle().eviction(), None);
    site.bridge.holds_groups.store(false, Ordering::SeqCst);
    assert!(site.sign_in(USER, device, &token).await.is_ok());
    assert_eq!(older.link.handle().eviction(), Some(Eviction::Replaced));
}

#[tokio::test]
async fn session_keeps_no_room_for_what_it_waited_for() {
    let site = Site::new().await;
    let mut client = in_mid_sync(&site).await;
    site.say(of(OTHER), "held");
    client.sync(Seq(2), &[(OTHER, Seq(20))]).await;
    site.leave(GROUP, USER);
    client.until("it is gone", |c| !c.follows(GROUP)).await;
    assert!(client.link.waiting.get().is_none());
    client
        .until("all is given back", |c| c.link.memberships.is_tidy())
        .await;
}

/// A group that cannot be read on must not keep the user's own messages waiting.
#[tokio::test]
async fn timeline_that_waits_does_not_stop_the_others() {
    let site = Site::new().await;
    site.join(GROUP, USER);
    let mut client = site.client(USER).await;
    let group = site.gateway.router.feed(Topic::Group(GROUP)).unwrap();
    // The database does not have it yet, so the catch-up has to wait.
    group.advance_to(Seq(2));
    client.until("it is behind", Client::is_catching_up).await;
    site.say(OWN, "own");
    client.until_given("own").await;
    client
        .until("it is behind still", Client::is_catching_up)
        .await;
    site.say(of(GROUP), "late");
    client.until_given("late").await;
}
