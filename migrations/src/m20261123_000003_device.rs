//! Installations of clients.

use sea_orm_migration::prelude::*;

use crate::columns::{counted_id, kind, number, text};

#[derive(DeriveMigrationName)]
pub struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let table = Table::create()
            .table("device")
            .col(counted_id("id"))
            .col(number("user_id"))
            .col(number("session_gen"))
            .col(kind("type"))
            .col(text("brand", 128))
            .col(text("model", 128))
            .col(text("system_version", 128))
            .col(text("sdk_version", 128))
            .col(number("created_at"))
            .col(number("updated_at"))
            .to_owned();
        manager.create_table(table).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager
            .drop_table(Table::drop().table("device").to_owned())
            .await
    }
}
