//! Messages: content is stored once, timelines point at it.

use sea_orm_migration::prelude::*;

use crate::columns::{assigned_id, kind, number};

#[derive(DeriveMigrationName)]
pub struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let table = Table::create()
            .table("message")
            .col(assigned_id(manager, "id"))
            .col(kind("sender_type"))
            .col(number("sender_id"))
            .col(number("sender_device_id"))
            .col(kind("receiver_type"))
            .col(number("receiver_id"))
            .col(ColumnDef::new("to_user_ids").var_binary(1_024).not_null())
            .col(kind("type"))
            .col(ColumnDef::new("content").blob().not_null())
            .col(number("send_time"))
            .col(kind("status"))
            .col(ColumnDef::new("client_message_id").var_binary(64))
            .col(ColumnDef::new("digest").var_binary(32).not_null())
            .to_owned();
        manager.create_table(table).await?;
        let once = Index::create()
            .name("message_client_message_id")
            .table("message")
            .col("sender_type")
            .col("sender_id")
            .col("client_message_id")
            .unique()
            .to_owned();
        manager.create_index(once).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager
            .drop_table(Table::drop().table("message").to_owned())
            .await
    }
}
