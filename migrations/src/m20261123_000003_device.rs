//! Installations of clients.

use sea_orm_migration::prelude::*;

use crate::columns::{binary_texts, counted_id, kind, number, text};

#[derive(DeriveMigrationName)]
pub struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let mut table = Table::create()
            .table("device")
            .col(counted_id("id"))
            .col(number("user_id"))
            .col(number("session_gen"))
            .col(kind("type"))
            .col(text(manager, "brand", 128))
            .col(text(manager, "model", 128))
            .col(text(manager, "system_version", 128))
            .col(text(manager, "sdk_version", 128))
            .col(number("created_at"))
            .col(number("updated_at"))
            .to_owned();
        binary_texts(manager, &mut table);
        manager.create_table(table).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager
            .drop_table(Table::drop().table("device").to_owned())
            .await
    }
}
