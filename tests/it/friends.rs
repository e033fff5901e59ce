//! Friends: asking, agreeing, what one notes about the other, and what both are told.

use im::pb::{
    AddFriendPush, AddFriendReq, AgreeAddFriendPush, Friend, Message, ReceiverType, SetFriendReq,
    SetFriendResp, UpdateUserReq,
};

use crate::support::{
    Api, Device, Server, Transport,
    errors::{BAD_REQUEST, FRIENDS_ALREADY, NO_SUCH_USER, NOT_FRIENDS, assert_fails, assert_names},
    events::{Event, event},
    messages::{text, words},
};

on_each_transport!(
    the_asked_and_the_asking_are_told,
    asking_again_changes_nothing,
    asking_who_asked_makes_friends,
    agreeing_twice_changes_nothing,
);

const NOBODY: i64 = 1_000_000_000;

/// Alice and Bob, by these names.
async fn two_users(server: &Api) -> (Device, Device) {
    let (alice, bob) = (server.new_user().await, server.new_user().await);
    for (user, nickname) in [(&alice, "Alice"), (&bob, "Bob")] {
        let profile = UpdateUserReq {
            nickname: nickname.into(),
            sex: 1,
            avatar_url: format!("https://example.com/{nickname}.png"),
            extra: format!("{nickname}'s"),
        };
        let updated = server.users(user).update_user(profile).await;
        updated.expect("UpdateUser");
    }
    (alice, bob)
}

fn question(to: &Device, remarks: &str) -> AddFriendReq {
    AddFriendReq {
        friend_id: to.user_id,
        remarks: remarks.into(),
        description: "It is me.".into(),
    }
}

fn asked_by_alice(alice: &Device) -> Event {
    Event::FriendAsked(AddFriendPush {
        friend_id: alice.user_id,
        nickname: "Alice".into(),
        avatar_url: "https://example.com/Alice.png".into(),
        description: "It is me.".into(),
    })
}

fn agreed(by: &Device, nickname: &str) -> Event {
    Event::FriendAgreed(AgreeAddFriendPush {
        friend_id: by.user_id,
        nickname: nickname.into(),
        avatar_url: format!("https://example.com/{nickname}.png"),
    })
}

fn assert_to(message: &Message, user: &Device) {
    let to = (message.receiver_type(), message.receiver_id);
    assert_eq!(to, (ReceiverType::RtUser, user.user_id), "{message:?}");
}

async fn the_asked_and_the_asking_are_told(transport: Transport) {
    let server = Server::start().await;
    let (alice, bob) = two_users(&server).await;
    let mut alices = server.connect(transport, &alice).await;
    let other = server.another_device_of(&bob).await;
    let mut bobs = [
        server.connect(transport, &bob).await,
        server.connect(transport, &other).await,
    ];
    server
        .ask(&alice, question(&bob, "Bobby"))
        .await
        .expect("asked");
    for connection in &mut bobs {
        let (message, event) = connection.told().await;
        assert_eq!(event, asked_by_alice(&alice));
        assert_to(&message, &bob);
        assert_eq!(message.seq, 1, "it is stored");
    }
    for user in [&alice, &bob] {
        assert!(server.friends(user).await.is_empty(), "not yet");
    }
    let result = server.agree(&bob, alice.user_id, "Ally").await;
    result.expect("agreed");
    let (message, event_) = alices.told().await;
    assert_eq!(event_, agreed(&bob, "Bob"));
    assert_to(&message, &alice);
    assert_eq!(message.seq, 1);
    // Whoever was away finds them by sync, and nobody else is told anything.
    let expected = [
        (&alice, agreed(&bob, "Bob")),
        (&bob, asked_by_alice(&alice)),
    ];
    for (user, expected) in expected {
        let timeline = server.timeline(user).await;
        let events: Vec<_> = timeline.iter().filter_map(event).collect();
        assert_eq!((events, timeline.len()), (vec![expected], 1));
    }
}

async fn asking_again_changes_nothing(transport: Transport) {
    let server = Server::start().await;
    let (alice, bob) = two_users(&server).await;
    let mut bobs = server.connect(transport, &bob).await;
    server
        .ask(&alice, question(&bob, "first"))
        .await
        .expect("asked");
    server
        .ask(&alice, question(&bob, "second"))
        .await
        .expect("asked");
    server
        .ask_plainly(&alice, bob.user_id)
        .await
        .expect("asked");
    server.send(&alice, text(bob.user_id, "marker")).await;
    assert_eq!(bobs.told().await.1, asked_by_alice(&alice));
    assert_eq!(words(&bobs.push().await), "marker", "told once");
    let result = server.agree(&bob, alice.user_id, "").await;
    result.expect("agreed");
    assert_eq!(server.friends(&alice).await[0].remarks, "first");
}

async fn asking_who_asked_makes_friends(transport: Transport) {
    let server = Server::start().await;
    let (alice, bob) = two_users(&server).await;
    let mut alices = server.connect(transport, &alice).await;
    let mut bobs = server.connect(transport, &bob).await;
    server
        .ask(&alice, question(&bob, "Bobby"))
        .await
        .expect("asked");
    server
        .ask(&bob, question(&alice, "Ally"))
        .await
        .expect("friends");
    assert_eq!(bobs.told().await.1, asked_by_alice(&alice));
    assert_eq!(alices.told().await.1, agreed(&bob, "Bob"));
    server.send(&alice, text(bob.user_id, "hello")).await;
    assert_eq!(words(&bobs.push().await), "hello", "nothing more is told");
    assert_eq!(server.friends(&alice).await[0].remarks, "Bobby");
    assert_eq!(server.friends(&bob).await[0].remarks, "Ally");
    for (user, friend) in [(&alice, &bob), (&bob, &alice)] {
        let again = server.ask(user, question(friend, "again")).await;
        assert_fails(again, FRIENDS_ALREADY);
    }
}

async fn agreeing_twice_changes_nothing(transport: Transport) {
    let server = Server::start().await;
    let (alice, bob) = two_users(&server).await;
    let mut alices = server.connect(transport, &alice).await;
    server
        .ask(&alice, question(&bob, "Bobby"))
        .await
        .expect("asked");
    for remarks in ["first", "second"] {
        let result = server.agree(&bob, alice.user_id, remarks).await;
        result.expect("agreed");
    }
    // The asking agrees to what is agreed already.
    let result = server.agree(&alice, bob.user_id, "other").await;
    result.expect("they are friends");
    server.send(&bob, text(alice.user_id, "marker")).await;
    assert_eq!(alices.told().await.1, agreed(&bob, "Bob"));
    assert_eq!(words(&alices.push().await), "marker", "told once");
    assert_eq!(server.friends(&bob).await[0].remarks, "first");
    assert_eq!(server.friends(&alice).await[0].remarks, "Bobby");
    assert_eq!(
        server.timeline(&bob).await.len(),
        2,
        "asked, and the marker"
    );
}

#[tokio::test]
async fn friends_are_listed_with_profile_and_notes() {
    let server = Server::start().await;
    let (alice, bob) = two_users(&server).await;
    let carol = server.new_user().await;
    server
        .ask(&alice, question(&bob, "Bobby"))
        .await
        .expect("asked");
    server
        .agree(&bob, alice.user_id, "Ally")
        .await
        .expect("agreed");
    // One who was asked, and one who asked, are no friends yet.
    server
        .ask_plainly(&alice, carol.user_id)
        .await
        .expect("asked");
    let dave = server.new_user().await;
    server
        .ask_plainly(&dave, alice.user_id)
        .await
        .expect("asked");
    let friend = |user: &Device, nickname: &str, remarks: &str| Friend {
        user_id: user.user_id,
        phone_number: user.phone_number.clone(),
        nickname: nickname.into(),
        sex: 1,
        avatar_url: format!("https://example.com/{nickname}.png"),
        user_extra: format!("{nickname}'s"),
        remarks: remarks.into(),
        extra: String::new(),
    };
    assert_eq!(server.friends(&alice).await, [friend(&bob, "Bob", "Bobby")]);
    assert_eq!(
        server.friends(&bob).await,
        [friend(&alice, "Alice", "Ally")]
    );
    assert!(server.friends(&carol).await.is_empty());
    assert!(server.friends(&dave).await.is_empty());

    // What one notes is replaced as a whole, and the other does not see it.
    for (remarks, extra) in [("Robert", "red"), ("", "")] {
        let request = SetFriendReq {
            friend_id: bob.user_id,
            remarks: remarks.into(),
            extra: extra.into(),
        };
        let answer = server.set_friend(&alice, request).await;
        let expected = SetFriendResp {
            friend_id: bob.user_id,
            remarks: remarks.into(),
            extra: extra.into(),
        };
        assert_eq!(answer.expect("SetFriend"), expected);
        let mut noted = friend(&bob, "Bob", remarks);
        noted.extra = extra.into();
        assert_eq!(server.friends(&alice).await, [noted]);
        assert_eq!(
            server.friends(&bob).await,
            [friend(&alice, "Alice", "Ally")]
        );
    }
}

#[tokio::test]
async fn who_is_no_friend_is_not_noted_about() {
    let server = Server::start().await;
    let (alice, bob) = two_users(&server).await;
    let set = async |by: &Device, friend_id| {
        let request = SetFriendReq {
            friend_id,
            ..Default::default()
        };
        server.set_friend(by, request).await
    };
    assert_fails(set(&alice, bob.user_id).await, NOT_FRIENDS);
    server
        .ask_plainly(&alice, bob.user_id)
        .await
        .expect("asked");
    assert_fails(set(&alice, bob.user_id).await, NOT_FRIENDS);
    assert_fails(set(&bob, alice.user_id).await, NOT_FRIENDS);
    server.agree(&bob, alice.user_id, "").await.expect("agreed");
    set(&alice, bob.user_id).await.expect("friends");
    set(&bob, alice.user_id).await.expect("friends");
}

#[tokio::test]
async fn wrong_questions_and_agreements_are_refused() {
    let server = Server::start().await;
    let (alice, bob) = two_users(&server).await;
    let oneself = server.ask_plainly(&alice, alice.user_id).await;
    assert_names(oneself, "friend_id");
    assert_fails(server.ask_plainly(&alice, NOBODY).await, NO_SUCH_USER);
    // Nobody asked; then the wrong one agrees.
    let unasked = server.agree(&bob, alice.user_id, "").await;
    assert_fails(unasked, BAD_REQUEST);
    let oneself = server.agree(&alice, alice.user_id, "").await;
    assert_fails(oneself, BAD_REQUEST);
    server
        .ask_plainly(&alice, bob.user_id)
        .await
        .expect("asked");
    let by_the_asking = server.agree(&alice, bob.user_id, "").await;
    assert_fails(by_the_asking, BAD_REQUEST);
    for user in [&alice, &bob] {
        assert!(server.friends(user).await.is_empty());
    }
    assert!(server.timeline(&alice).await.is_empty());
    assert_eq!(server.timeline(&bob).await.len(), 1, "asked once");
}

#[tokio::test]
async fn fields_out_of_their_bounds_are_refused_by_name() {
    let server = Server::start().await;
    let (alice, bob) = two_users(&server).await;
    for friend_id in [0, -1, i64::MIN] {
        let asked = server.ask_plainly(&alice, friend_id).await;
        assert_names(asked, "friend_id");
        assert_names(server.agree(&alice, friend_id, "").await, "user_id");
        let request = SetFriendReq {
            friend_id,
            ..Default::default()
        };
        assert_names(server.set_friend(&alice, request).await, "friend_id");
    }
    let good = question(&bob, "");
    let too_long = |bytes: usize| {
        [
            "x".repeat(bytes + 1),
            "ü".repeat(bytes / 2 + 1),
            "\0".into(),
        ]
    };
    for remarks in too_long(512) {
        let request = AddFriendReq {
            remarks: remarks.clone(),
            ..good.clone()
        };
        assert_names(server.ask(&alice, request).await, "remarks");
        let agreed = server.agree(&alice, bob.user_id, &remarks).await;
        assert_names(agreed, "remarks");
        let request = SetFriendReq {
            friend_id: bob.user_id,
            remarks,
            extra: String::new(),
        };
        assert_names(server.set_friend(&alice, request).await, "remarks");
    }
    for long in too_long(2_048) {
        let request = AddFriendReq {
            description: long.clone(),
            ..good.clone()
        };
        assert_names(server.ask(&alice, request).await, "description");
        let request = SetFriendReq {
            friend_id: bob.user_id,
            remarks: String::new(),
            extra: long,
        };
        assert_names(server.set_friend(&alice, request).await, "extra");
    }
    let largest = AddFriendReq {
        friend_id: bob.user_id,
        remarks: "r".repeat(512),
        description: "d".repeat(2_048),
    };
    server
        .ask(&alice, largest)
        .await
        .expect("as long as may be");
}

/// Both ask at the same time: whoever comes second agrees.
#[tokio::test]
async fn two_who_ask_each_other_at_once_are_friends() {
    let server = Server::start().await;
    for _ in 0..15 {
        let (alice, bob) = (server.new_user().await, server.new_user().await);
        let (one, other) = tokio::join!(
            server.ask_plainly(&alice, bob.user_id),
            server.ask_plainly(&bob, alice.user_id),
        );
        one.expect("asked or agreed");
        other.expect("asked or agreed");
        let mut told = Vec::new();
        for (user, friend) in [(&alice, &bob), (&bob, &alice)] {
            let friends = server.friends(user).await;
            assert_eq!(friends.len(), 1);
            assert_eq!(friends[0].user_id, friend.user_id);
            told.extend(server.timeline(user).await.iter().filter_map(event));
        }
        let asked = told.iter().filter(|e| matches!(e, Event::FriendAsked(_)));
        assert_eq!((asked.count(), told.len()), (1, 2), "{told:?}");
    }
}
