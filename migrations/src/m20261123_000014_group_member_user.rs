//! A user's groups: the index answers which, and where each was joined, without the rows.

use sea_orm_migration::prelude::*;

#[derive(DeriveMigrationName)]
pub struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let index = Index::create()
            .name("group_member_user")
            .table("group_member")
            .col("user_id")
            .col("group_id")
            .col("join_seq")
            .to_owned();
        manager.create_index(index).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let index = Index::drop()
            .name("group_member_user")
            .table("group_member")
            .to_owned();
        manager.drop_index(index).await
    }
}
