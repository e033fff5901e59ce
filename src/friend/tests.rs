//! Friends on a real database: what is stored, who is told, and who may write to whom.

use futures_util::join;
use prost::Message as _;

use super::*;
use crate::{
    friendships::Friendships,
    id::{DeviceId, Seq},
    message::{self, Author, Messages, Origin},
    store::timeline::Row,
    testing::{START_MS, World},
};

fn asking(remarks: &str, description: &str) -> Asking {
    Asking {
        remarks: remarks.into(),
        description: description.into(),
    }
}

fn code<T>(result: Result<T>) -> Option<Code> {
    result.err().and_then(|error| error.code())
}

/// The codes and the data of what a user was told.
fn commands(timeline: &[Row]) -> Vec<(PushCode, prost::bytes::Bytes)> {
    let commands = timeline.iter().map(|row| {
        let message = &row.message;
        let sender = (message.sender_type, message.sender_id);
        assert_eq!(sender, (pb::SenderType::StSystem as i16, 0));
        assert_eq!(message.receiver_type, ReceiverType::RtUser as i16);
        assert_eq!(message.r#type, pb::MessageType::MtCommand as i16);
        let command = pb::Command::decode(&*message.content).unwrap();
        (PushCode::try_from(command.code).unwrap(), command.data)
    });
    commands.collect()
}

async fn told(world: &World, user: UserId) -> Vec<PushCode> {
    let timeline = world.timeline(user).await;
    assert!(
        timeline
            .iter()
            .all(|row| row.message.receiver_id == user.get())
    );
    let commands = commands(&timeline);
    commands.into_iter().map(|(code, _)| code).collect()
}

async fn friends_of(world: &World, user: UserId) -> Vec<i64> {
    let friends = world.friends.list(user).await.unwrap();
    friends.into_iter().map(|friend| friend.user_id).collect()
}

async fn befriend(world: &World, asker: UserId, asked: UserId) {
    world
        .friends
        .add(asker, asked, Asking::default())
        .await
        .unwrap();
    let agreed = world.friends.agree(asked, asker, String::new());
    agreed.await.unwrap();
}

#[tokio::test]
async fn who_is_asked_is_told_once_and_who_asked_is_told_that_he_agreed() {
    let world = World::new().await;
    let [alice, bob] = world.users(2).await[..] else {
        unreachable!();
    };
    let changes = crate::user::Changes {
        nickname: "Alice".into(),
        sex: 2,
        avatar_url: "http://a".into(),
        extra: "hers".into(),
    };
    world.accounts.update(alice, changes).await.unwrap();
    for description in ["it is me", "it is me again"] {
        let asking = asking("Bobby", description);
        world.friends.add(alice, bob, asking).await.unwrap();
    }
    let timeline = world.timeline(bob).await;
    let [(PushCode::PcAddFriend, data)] = &commands(&timeline)[..] else {
        panic!("{timeline:?}");
    };
    let push = pb::AddFriendPush::decode(&**data).unwrap();
    let expected = pb::AddFriendPush {
        friend_id: alice.get(),
        nickname: "Alice".into(),
        avatar_url: "http://a".into(),
        description: "it is me".into(),
    };
    assert_eq!(push, expected);
    assert!(friends_of(&world, alice).await.is_empty());
    assert!(friends_of(&world, bob).await.is_empty());

    for remarks in ["my Alice", "changes nothing"] {
        let agreed = world.friends.agree(bob, alice, remarks.into());
        agreed.await.unwrap();
    }
    let timeline = world.timeline(alice).await;
    let [(PushCode::PcAgreeAddFriend, data)] = &commands(&timeline)[..] else {
        panic!("{timeline:?}");
    };
    let push = pb::AgreeAddFriendPush::decode(&**data).unwrap();
    assert_eq!(push.friend_id, bob.get());
    assert_eq!(world.timeline(bob).await.len(), 1);

    let listed = world.friends.list(bob).await.unwrap();
    let expected = Friend {
        user_id: alice.get(),
        phone_number: "+000000000".into(),
        nickname: "Alice".into(),
        sex: 2,
        avatar_url: "http://a".into(),
        user_extra: "hers".into(),
        remarks: "my Alice".into(),
        extra: String::new(),
    };
    assert_eq!(listed, [expected]);
    let listed = world.friends.list(alice).await.unwrap();
    assert_eq!(listed[0].remarks, "Bobby", "from when she asked");
}

#[tokio::test]
async fn asking_who_asked_is_agreeing() {
    let world = World::new().await;
    let [alice, bob] = world.users(2).await[..] else {
        unreachable!();
    };
    let add = |user, friend| world.friends.add(user, friend, asking("r", "d"));
    add(alice, bob).await.unwrap();
    add(bob, alice).await.unwrap();
    assert_eq!(told(&world, alice).await, [PushCode::PcAgreeAddFriend]);
    assert_eq!(told(&world, bob).await, [PushCode::PcAddFriend]);
    for (user, friend) in [(alice, bob), (bob, alice)] {
        assert_eq!(friends_of(&world, user).await, [friend.get()]);
        assert_eq!(code(add(user, friend).await), Some(Code::FriendsAlready));
        world
            .friends
            .agree(user, friend, String::new())
            .await
            .unwrap();
    }
    assert_eq!(
        told(&world, alice).await.len() + told(&world, bob).await.len(),
        2
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_who_ask_each_other_at_the_same_time_become_friends_and_one_is_told() {
    let world = World::new().await;
    let users = world.users(40).await;
    for pair in users.chunks(2) {
        let [one, other] = *pair else { unreachable!() };
        let add = |user, friend| world.friends.add(user, friend, Asking::default());
        let (first, second) = join!(add(one, other), add(other, one));
        first.unwrap();
        second.unwrap();
        let mut told = [told(&world, one).await, told(&world, other).await].concat();
        told.sort_unstable();
        assert_eq!(told, [PushCode::PcAddFriend, PushCode::PcAgreeAddFriend]);
        assert_eq!(friends_of(&world, one).await, [other.get()]);
        assert_eq!(friends_of(&world, other).await, [one.get()]);
    }
}

#[tokio::test]
async fn what_may_not_be_is_refused_and_tells_nobody() {
    let world = World::new().await;
    let [alice, bob, carol] = world.users(3).await[..] else {
        unreachable!();
    };
    let friends = &world.friends;
    let nobody = UserId(99);
    let text = |bytes| "x".repeat(bytes);
    for (friend, asking, expected) in [
        (alice, Asking::default(), Code::BadRequest),
        (UserId(0), Asking::default(), Code::BadRequest),
        (UserId(-1), Asking::default(), Code::BadRequest),
        (nobody, Asking::default(), Code::NoSuchUser),
        (
            bob,
            asking(&text(REMARKS_BYTES_MAX + 1), ""),
            Code::BadRequest,
        ),
        (bob, asking("a\0b", ""), Code::BadRequest),
        (
            bob,
            asking("", &text(DESCRIPTION_BYTES_MAX + 1)),
            Code::BadRequest,
        ),
    ] {
        let refused = friends.add(alice, friend, asking).await;
        assert_eq!(code(refused), Some(expected), "{friend}");
    }
    for (asker, expected) in [
        (bob, Code::BadRequest),
        (alice, Code::BadRequest),
        (UserId(0), Code::BadRequest),
        (nobody, Code::NoSuchUser),
    ] {
        let refused = friends.agree(alice, asker, String::new()).await;
        assert_eq!(code(refused), Some(expected), "{asker}");
    }
    // Nor does who asked agree to himself.
    friends.add(alice, bob, Asking::default()).await.unwrap();
    let unasked = friends.agree(alice, bob, String::new()).await;
    assert!(unasked.unwrap_err().to_string().starts_with("user_id"));
    for (friend, expected) in [
        (bob, Code::NotFriends),
        (carol, Code::NotFriends),
        (alice, Code::BadRequest),
        (nobody, Code::NoSuchUser),
    ] {
        let refused = friends.set(alice, friend, &Notes::default()).await;
        assert_eq!(code(refused), Some(expected), "{friend}");
    }
    assert_eq!(told(&world, bob).await.len(), 1);
    for user in [alice, carol] {
        assert!(told(&world, user).await.is_empty());
    }
}

#[tokio::test]
async fn notes_are_replaced_as_a_whole_and_are_ones_own() {
    let world = World::new().await;
    let [alice, bob] = world.users(2).await[..] else {
        unreachable!();
    };
    befriend(&world, alice, bob).await;
    let notes = |remarks: &str, extra: &str| Notes {
        remarks: remarks.into(),
        extra: extra.into(),
    };
    for notes in [notes("Bobby", "{}"), notes("", "more"), notes("Bob", "")] {
        world.friends.set(alice, bob, &notes).await.unwrap();
        let friend = world.friends.list(alice).await.unwrap().remove(0);
        assert_eq!((friend.remarks, friend.extra), (notes.remarks, notes.extra));
    }
    let friend = world.friends.list(bob).await.unwrap().remove(0);
    assert_eq!((&*friend.remarks, &*friend.extra), ("", ""));
    let too_long = notes("", &"x".repeat(EXTRA_BYTES_MAX + 1));
    let refused = world.friends.set(alice, bob, &too_long).await;
    assert_eq!(code(refused), Some(Code::BadRequest));
}

/// A text from `sender` to `receiver`.
async fn send(
    messages: &Messages,
    author: Author,
    receiver: UserId,
    client_message_id: &str,
) -> Result<message::Sent> {
    let request = pb::SendMessageReq {
        receiver_type: ReceiverType::RtUser as i32,
        receiver_id: receiver.get(),
        message_type: pb::MessageType::MtText as i32,
        is_persist: true,
        client_message_id: client_message_id.into(),
        ..Default::default()
    };
    messages.send(author, request).await
}

fn as_user(user: UserId) -> Author {
    let device = DeviceId(1);
    Author::User(Origin { user, device })
}

#[tokio::test]
async fn where_friendship_is_required_strangers_may_not_write() {
    let world = World::new().await;
    let [alice, bob] = world.users(2).await[..] else {
        unreachable!();
    };
    let strict = Messages::new(message::Options {
        friendships: Some(Arc::new(Friendships::new(
            world.store.clone(),
            crate::limits::CACHE_TTL,
        ))),
        ..world.sending.clone()
    });
    let before = send(&world.messages, as_user(alice), bob, "before").await;
    let before = before.unwrap();
    assert_eq!(before.seq, Seq(1));

    let refused = send(&strict, as_user(alice), bob, "new").await;
    assert_eq!(code(refused), Some(Code::NotFriends));
    let unknown = send(&strict, as_user(alice), UserId(99), "").await;
    assert_eq!(code(unknown), Some(Code::NoSuchUser));
    let again = send(&strict, as_user(alice), bob, "before").await;
    assert_eq!(again.unwrap(), before, "it was accepted when it was sent");
    send(&strict, as_user(alice), alice, "").await.unwrap();
    for author in [Author::System(0), Author::Business(alice.get())] {
        let sent = send(&strict, author, bob, "").await.unwrap();
        assert_eq!(sent.seq, Seq::ZERO);
    }

    world
        .friends
        .add(alice, bob, Asking::default())
        .await
        .unwrap();
    let asked = send(&strict, as_user(alice), bob, "new").await;
    assert_eq!(code(asked), Some(Code::NotFriends), "asking is not enough");
    let agreed = world.friends.agree(bob, alice, String::new());
    agreed.await.unwrap();
    for _cached in [false, true] {
        send(&strict, as_user(alice), bob, "").await.unwrap();
        send(&strict, as_user(bob), alice, "").await.unwrap();
    }
}

#[tokio::test]
async fn announcement_bears_the_time_of_the_change() {
    let world = World::new().await;
    let [alice, bob] = world.users(2).await[..] else {
        unreachable!();
    };
    world
        .friends
        .add(alice, bob, Asking::default())
        .await
        .unwrap();
    let row = world.timeline(bob).await.remove(0);
    assert_eq!((row.seq, row.message.send_time), (Seq(1), START_MS));
    assert_eq!(row.message.client_message_id, None);
}
