//! The part of `LogicExt` that is about friends.

use tonic::{Request, Response, Status};

use super::{Caller, convert};
use crate::{
    friend::{Asking, Friends, Notes},
    id::UserId,
    pb::{
        AddFriendReq, AddFriendResp, AgreeAddFriendReq, AgreeAddFriendResp, GetFriendsReq,
        GetFriendsResp, SetFriendReq, SetFriendResp,
    },
};

pub(super) async fn add(
    friends: &Friends,
    request: Request<AddFriendReq>,
) -> Result<Response<AddFriendResp>, Status> {
    let caller = Caller::of(&request)?;
    let request = request.into_inner();
    let asking = Asking {
        remarks: request.remarks,
        description: request.description,
    };
    let friend = UserId(request.friend_id);
    friends.add(caller.user, friend, asking).await?;
    Ok(Response::new(AddFriendResp {}))
}

pub(super) async fn agree(
    friends: &Friends,
    request: Request<AgreeAddFriendReq>,
) -> Result<Response<AgreeAddFriendResp>, Status> {
    let caller = Caller::of(&request)?;
    let request = request.into_inner();
    let asker = UserId(request.user_id);
    friends.agree(caller.user, asker, request.remarks).await?;
    Ok(Response::new(AgreeAddFriendResp {}))
}

pub(super) async fn set(
    friends: &Friends,
    request: Request<SetFriendReq>,
) -> Result<Response<SetFriendResp>, Status> {
    let caller = Caller::of(&request)?;
    let request = request.into_inner();
    let notes = Notes {
        remarks: request.remarks,
        extra: request.extra,
    };
    let friend = UserId(request.friend_id);
    friends.set(caller.user, friend, &notes).await?;
    Ok(Response::new(SetFriendResp {
        friend_id: friend.get(),
        remarks: notes.remarks,
        extra: notes.extra,
    }))
}

pub(super) async fn list(
    friends: &Friends,
    request: Request<GetFriendsReq>,
) -> Result<Response<GetFriendsResp>, Status> {
    let caller = Caller::of(&request)?;
    let friends = friends.list(caller.user).await?;
    Ok(Response::new(GetFriendsResp {
        friends: friends.into_iter().map(convert::friend).collect(),
    }))
}
