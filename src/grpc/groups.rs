//! The rpcs of `LogicExt` about groups.

use tonic::{Request, Response, Status};

use super::{Caller, convert};
use crate::{
    group::Groups,
    id::{GroupId, UserId},
    pb::{
        AddGroupMembersReq, AddGroupMembersResp, CreateGroupReq, CreateGroupResp,
        DeleteGroupMemberReq, DeleteGroupMemberResp, GetGroupMembersReq, GetGroupMembersResp,
        GetGroupReq, GetGroupResp, GetGroupsReq, GetGroupsResp, UpdateGroupMemberReq,
        UpdateGroupMemberResp, UpdateGroupReq, UpdateGroupResp,
    },
};

type Answer<T> = Result<Response<T>, Status>;

pub(super) async fn create(
    groups: &Groups,
    request: Request<CreateGroupReq>,
) -> Answer<CreateGroupResp> {
    let by = Caller::of(&request)?.user;
    let new = convert::new_group(request.into_inner());
    let group = groups.create(by, new).await?;
    Ok(Response::new(CreateGroupResp {
        group_id: group.get(),
    }))
}

pub(super) async fn update(
    groups: &Groups,
    request: Request<UpdateGroupReq>,
) -> Answer<UpdateGroupResp> {
    let by = Caller::of(&request)?.user;
    let request = request.into_inner();
    let group = GroupId(request.group_id);
    groups
        .update(by, group, convert::group_details(request))
        .await?;
    Ok(Response::new(UpdateGroupResp {}))
}

pub(super) async fn get(groups: &Groups, request: Request<GetGroupReq>) -> Answer<GetGroupResp> {
    let by = Caller::of(&request)?.user;
    let group = GroupId(request.into_inner().group_id);
    let found = groups.get(by, group).await?;
    Ok(Response::new(GetGroupResp {
        group: Some(convert::group(found)),
    }))
}

pub(super) async fn list(groups: &Groups, request: Request<GetGroupsReq>) -> Answer<GetGroupsResp> {
    let by = Caller::of(&request)?.user;
    let found = groups.of_user(by).await?;
    Ok(Response::new(GetGroupsResp {
        groups: found.into_iter().map(convert::group).collect(),
    }))
}

pub(super) async fn add_members(
    groups: &Groups,
    request: Request<AddGroupMembersReq>,
) -> Answer<AddGroupMembersResp> {
    let by = Caller::of(&request)?.user;
    let request = request.into_inner();
    let group = GroupId(request.group_id);
    let present = groups.add(by, group, request.user_ids).await?;
    Ok(Response::new(AddGroupMembersResp {
        user_ids: present.into_iter().map(UserId::get).collect(),
    }))
}

pub(super) async fn update_member(
    groups: &Groups,
    request: Request<UpdateGroupMemberReq>,
) -> Answer<UpdateGroupMemberResp> {
    let by = Caller::of(&request)?.user;
    let request = request.into_inner();
    let (group, user) = (GroupId(request.group_id), UserId(request.user_id));
    let details = convert::member_details(request);
    groups.update_member(by, group, user, details).await?;
    Ok(Response::new(UpdateGroupMemberResp {}))
}

pub(super) async fn remove_member(
    groups: &Groups,
    request: Request<DeleteGroupMemberReq>,
) -> Answer<DeleteGroupMemberResp> {
    let by = Caller::of(&request)?.user;
    let request = request.into_inner();
    let (group, user) = (GroupId(request.group_id), UserId(request.user_id));
    groups.remove(by, group, user).await?;
    Ok(Response::new(DeleteGroupMemberResp {}))
}

pub(super) async fn members(
    groups: &Groups,
    request: Request<GetGroupMembersReq>,
) -> Answer<GetGroupMembersResp> {
    let by = Caller::of(&request)?.user;
    let request = request.into_inner();
    let (group, after) = (GroupId(request.group_id), UserId(request.after_user_id));
    let page = groups.members(by, group, after, request.limit).await?;
    Ok(Response::new(GetGroupMembersResp {
        members: page.members,
        has_more: page.has_more,
    }))
}
