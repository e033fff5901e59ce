//! Accounts of the built-in user directory.

use sea_orm_migration::prelude::*;

use crate::columns::{binary_texts, counted_id, kind, number, text};

#[derive(DeriveMigrationName)]
pub struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let mut table = Table::create()
            .table("user")
            .col(counted_id("id"))
            .col(text(manager, "phone_number", 16).unique_key())
            .col(text(manager, "nickname", 128))
            .col(kind("sex"))
            .col(text(manager, "avatar_url", 1_024))
            .col(text(manager, "extra", 2_048))
            .col(ColumnDef::new("password_hash").string_len(255))
            .col(number("created_at"))
            .col(number("updated_at"))
            .to_owned();
        binary_texts(manager, &mut table);
        manager.create_table(table).await?;
        let by_nickname = Index::create()
            .name("user_nickname")
            .table("user")
            .col("nickname")
            .to_owned();
        manager.create_index(by_nickname).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager
            .drop_table(Table::drop().table("user").to_owned())
            .await
    }
}
