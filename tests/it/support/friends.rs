//! The rpcs about friends.

use im::pb::{AddFriendReq, AgreeAddFriendReq, Friend, GetFriendsReq, SetFriendReq, SetFriendResp};
use tonic::Status;

use super::{Api, Device, wait::soon};

impl Api {
    /// Asks a user to become a friend.
    pub async fn ask(&self, by: &Device, request: AddFriendReq) -> Result<(), Status> {
        let mut logic = self.logic(by);
        soon("AddFriend", logic.add_friend(request)).await?;
        Ok(())
    }

    /// Asks without remarks and description.
    pub async fn ask_plainly(&self, by: &Device, friend_id: i64) -> Result<(), Status> {
        let request = AddFriendReq {
            friend_id,
            ..Default::default()
        };
        self.ask(by, request).await
    }

    /// Agrees to be the friend of the user who asked.
    pub async fn agree(&self, by: &Device, user_id: i64, remarks: &str) -> Result<(), Status> {
        let request = AgreeAddFriendReq {
            user_id,
            remarks: remarks.into(),
        };
        let mut logic = self.logic(by);
        soon("AgreeAddFriend", logic.agree_add_friend(request)).await?;
        Ok(())
    }

    /// Sets what the caller notes about a friend.
    pub async fn set_friend(
        &self,
        by: &Device,
        request: SetFriendReq,
    ) -> Result<SetFriendResp, Status> {
        let mut logic = self.logic(by);
        let answer = soon("SetFriend", logic.set_friend(request)).await?;
        Ok(answer.into_inner())
    }

    /// The caller's friends, by id.
    pub async fn friends(&self, of: &Device) -> Vec<Friend> {
        let mut logic = self.logic(of);
        let answer = soon("GetFriends", logic.get_friends(GetFriendsReq {})).await;
        let mut friends = answer.expect("GetFriends").into_inner().friends;
        friends.sort_by_key(|friend| friend.user_id);
        friends
    }
}
