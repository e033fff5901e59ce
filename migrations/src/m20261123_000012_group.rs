//! Groups, small and large.

use sea_orm_migration::prelude::*;

use crate::columns::{counted_id, kind, number, text};

#[derive(DeriveMigrationName)]
pub struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let table = Table::create()
            .table("group")
            .col(counted_id("id"))
            .col(text("name", 256))
            .col(text("avatar_url", 1_024))
            .col(text("introduction", 2_048))
            .col(kind("type"))
            .col(number("member_count"))
            .col(number("version"))
            .col(text("extra", 2_048))
            .col(number("created_at"))
            .col(number("updated_at"))
            .to_owned();
        manager.create_table(table).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager
            .drop_table(Table::drop().table("group").to_owned())
            .await
    }
}
