//! What a business server sends and pushes.

use super::*;
use crate::{
    limits::PUSH_USERS_MAX,
    pb::{
        Command, IntSendMessageReq, MessageType, PushToRoomReq, PushToUsersReq, ReceiverType,
        SenderType,
    },
};

fn text_to(user: UserId) -> SendMessageReq {
    SendMessageReq {
        receiver_type: ReceiverType::RtUser as i32,
        receiver_id: user.get(),
        message_type: MessageType::MtText as i32,
        is_persist: true,
        client_message_id: "once".into(),
        ..Default::default()
    }
}

#[tokio::test]
async fn business_and_system_send_once_for_each_of_their_ids() {
    let world = World::new().await;
    let user = world.users(1).await[0];
    let mut logic = LogicIntClient::new(internal(&world, "").await);
    let mut ids = Vec::new();
    // Among them a sender with the id of the user.
    for (sender_type, sender_id) in [
        (SenderType::StSystem, 0),
        (SenderType::StBusiness, 0),
        (SenderType::StBusiness, user.get()),
    ] {
        let request = IntSendMessageReq {
            sender_type: sender_type as i32,
            sender_id,
            message: Some(text_to(user)),
        };
        let mut sent = Vec::new();
        for _ in 0..2 {
            let answer = logic.send_message(request.clone()).await.unwrap();
            sent.push(answer.into_inner());
        }
        assert_eq!(sent[0], sent[1]);
        assert_eq!(sent[0].seq, 0, "it has no timeline");
        ids.push(sent[0].message_id);
    }
    let stored = world.timeline(user).await;
    let stored: Vec<i64> = stored.iter().map(|row| row.message.id).collect();
    assert_eq!(stored, ids);
}

#[tokio::test]
async fn business_server_sends_as_nobody_else() {
    let world = World::new().await;
    let user = world.users(1).await[0];
    let mut logic = LogicIntClient::new(internal(&world, "").await);
    let good = IntSendMessageReq {
        sender_type: SenderType::StSystem as i32,
        sender_id: 0,
        message: Some(text_to(user)),
    };
    let as_type = |sender_type| IntSendMessageReq {
        sender_type,
        ..good.clone()
    };
    for (refused, field) in [
        (as_type(SenderType::StUser as i32), "sender_type"),
        (as_type(0), "sender_type"),
        (as_type(4), "sender_type"),
        (
            IntSendMessageReq {
                sender_id: -1,
                ..good.clone()
            },
            "sender_id",
        ),
        (
            IntSendMessageReq {
                message: None,
                ..good.clone()
            },
            "message",
        ),
        (
            IntSendMessageReq {
                message: Some(SendMessageReq::default()),
                ..good.clone()
            },
            "receiver_type",
        ),
    ] {
        let status = logic.send_message(refused).await.unwrap_err();
        assert_business(&status, Code::BadRequest, GrpcCode::InvalidArgument);
        assert!(status.message().starts_with(field), "{}", status.message());
    }
    assert!(world.timeline(user).await.is_empty());
}

#[tokio::test]
async fn largest_push_fits_a_request() {
    let world = World::new().await;
    let user = world.users(1).await[0];
    let mut logic = LogicIntClient::new(internal(&world, "").await);
    let push = |known: Option<UserId>, count: usize| PushToUsersReq {
        user_ids: (0..count as i64 - 1)
            .map(|n| i64::MAX - n)
            .chain([known.map_or(i64::MAX / 2, UserId::get)])
            .collect(),
        command: Some(Command {
            code: 1_000,
            data: vec![0; 59_000].into(),
        }),
        is_persist: true,
        client_message_id: "x".repeat(64),
    };
    let pushed = logic.push_to_users(push(Some(user), PUSH_USERS_MAX)).await;
    let id = pushed.unwrap().into_inner().message_id;
    assert_eq!(world.timeline(user).await[0].message.id, id);
    let nobody = PushToUsersReq {
        client_message_id: String::new(),
        ..push(None, PUSH_USERS_MAX)
    };
    let nobody = logic.push_to_users(nobody).await.unwrap_err();
    assert_business(&nobody, Code::NoSuchUser, GrpcCode::NotFound);
    let too_many = logic.push_to_users(push(Some(user), PUSH_USERS_MAX + 1));
    let too_many = too_many.await.unwrap_err();
    assert_business(&too_many, Code::BadRequest, GrpcCode::InvalidArgument);
}

#[tokio::test]
async fn pushes_to_all_and_to_rooms_need_nobody_there() {
    let world = World::new().await;
    let mut logic = LogicIntClient::new(internal(&world, "").await);
    let command = Some(Command::default());
    logic.push_to_all(PushToAllReq { command }).await.unwrap();
    let to_room = PushToRoomReq {
        room_id: 7,
        message_type: MessageType::MtText as i32,
        ..Default::default()
    };
    logic.push_to_room(to_room).await.unwrap();
    let refused = logic.push_to_all(PushToAllReq::default()).await;
    assert_business(
        &refused.unwrap_err(),
        Code::BadRequest,
        GrpcCode::InvalidArgument,
    );
}
