//! A group's admins, so that the last one is found among a million members.

use sea_orm_migration::prelude::*;

#[derive(DeriveMigrationName)]
pub struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let index = Index::create()
            .name("group_member_type")
            .table("group_member")
            .col("group_id")
            .col("member_type")
            .col("user_id")
            .to_owned();
        manager.create_index(index).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let index = Index::drop()
            .name("group_member_type")
            .table("group_member")
            .to_owned();
        manager.drop_index(index).await
    }
}
