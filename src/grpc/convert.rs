//! Between the contract's messages and the domain's types. Times are unix milliseconds inside and
//! unix seconds in the contract.

use crate::{
    device::{Description, Device},
    error::{Error, Result},
    friend::Friend,
    group::{Details, Group, MemberDetails, NewGroup},
    message::Author,
    pb,
    user::{Changes, User},
};

pub(super) fn user(user: User) -> pb::User {
    pb::User {
        user_id: user.id,
        nickname: user.nickname,
        sex: user.sex.into(),
        avatar_url: user.avatar_url,
        extra: user.extra,
        create_time: seconds(user.created_at),
        update_time: seconds(user.updated_at),
    }
}

pub(super) fn changes(request: pb::UpdateUserReq) -> Changes {
    Changes {
        nickname: request.nickname,
        // What does not fit is refused as any other number that is no sex.
        sex: request.sex.try_into().unwrap_or(i16::MAX),
        avatar_url: request.avatar_url,
        extra: request.extra,
    }
}

pub(super) fn description(request: pb::RegisterDeviceReq) -> Description {
    Description {
        kind: request.r#type,
        brand: request.brand,
        model: request.model,
        system_version: request.system_version,
        sdk_version: request.sdk_version,
    }
}

/// `status` is 1 for a device that is online, else 0.
pub(super) fn device(device: Device, status: i32) -> pb::Device {
    pb::Device {
        device_id: device.id,
        user_id: device.user_id,
        r#type: device.r#type.into(),
        brand: device.brand,
        model: device.model,
        system_version: device.system_version,
        sdk_version: device.sdk_version,
        status,
        create_time: seconds(device.created_at),
        update_time: seconds(device.updated_at),
    }
}

pub(super) fn friend(friend: Friend) -> pb::Friend {
    pb::Friend {
        user_id: friend.user_id,
        phone_number: friend.phone_number,
        nickname: friend.nickname,
        sex: friend.sex.into(),
        avatar_url: friend.avatar_url,
        user_extra: friend.user_extra,
        remarks: friend.remarks,
        extra: friend.extra,
    }
}

/// As whom a business server sends, and what.
pub(super) fn int_send(request: pb::IntSendMessageReq) -> Result<(Author, pb::SendMessageReq)> {
    let author = match pb::SenderType::try_from(request.sender_type) {
        Ok(pb::SenderType::StSystem) => Author::System(request.sender_id),
        Ok(pb::SenderType::StBusiness) => Author::Business(request.sender_id),
        _ => {
            return Err(Error::bad_request(
                "sender_type",
                "ST_SYSTEM or ST_BUSINESS",
            ));
        }
    };
    if request.sender_id < 0 {
        return Err(Error::bad_request("sender_id", "must not be negative"));
    }
    let message = request.message;
    let message = message.ok_or_else(|| Error::bad_request("message", "missing"))?;
    Ok((author, message))
}

pub(super) fn new_group(request: pb::CreateGroupReq) -> NewGroup {
    NewGroup {
        kind: request.r#type,
        details: Details {
            name: request.name,
            avatar_url: request.avatar_url,
            introduction: request.introduction,
            extra: request.extra,
        },
        members: request.member_ids,
    }
}

pub(super) fn group_details(request: pb::UpdateGroupReq) -> Details {
    Details {
        name: request.name,
        avatar_url: request.avatar_url,
        introduction: request.introduction,
        extra: request.extra,
    }
}

pub(super) fn member_details(request: pb::UpdateGroupMemberReq) -> MemberDetails {
    MemberDetails {
        member_type: request.member_type,
        remarks: request.remarks,
        extra: request.extra,
    }
}

pub(super) fn group(group: Group) -> pb::Group {
    pb::Group {
        group_id: group.id,
        name: group.name,
        avatar_url: group.avatar_url,
        introduction: group.introduction,
        user_mum: group.member_count.try_into().unwrap_or(i32::MAX),
        r#type: group.r#type.into(),
        extra: group.extra,
        create_time: seconds(group.created_at),
        update_time: seconds(group.updated_at),
    }
}

const fn seconds(milliseconds: i64) -> i64 {
    milliseconds.div_euclid(1_000)
}
