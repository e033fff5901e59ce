//! Groups, small and large.

use sea_orm_migration::prelude::*;

use crate::columns::{binary_texts, counted_id, kind, number, text};

#[derive(DeriveMigrationName)]
pub struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let mut table = Table::create()
            .table("group")
            .col(counted_id("id"))
            .col(text(manager, "name", 256))
            .col(text(manager, "avatar_url", 1_024))
            .col(text(manager, "introduction", 2_048))
            .col(kind("type"))
            .col(number("member_count"))
            .col(number("version"))
            .col(text(manager, "extra", 2_048))
            .col(number("created_at"))
            .col(number("updated_at"))
            .to_owned();
        binary_texts(manager, &mut table);
        manager.create_table(table).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager
            .drop_table(Table::drop().table("group").to_owned())
            .await
    }
}
