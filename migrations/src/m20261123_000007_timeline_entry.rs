//! Timelines: which message stands at which position.

use sea_orm_migration::prelude::*;

use crate::columns::{clustered, kind, number};

#[derive(DeriveMigrationName)]
pub struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let mut table = Table::create()
            .table("timeline_entry")
            .col(kind("owner_type"))
            .col(number("owner_id"))
            .col(number("seq"))
            .col(number("message_id"))
            .primary_key(Index::create().col("owner_type").col("owner_id").col("seq"))
            .to_owned();
        clustered(manager, &mut table);
        manager.create_table(table).await?;
        let once = Index::create()
            .name("timeline_entry_message_id")
            .table("timeline_entry")
            .col("message_id")
            .col("owner_type")
            .col("owner_id")
            .unique()
            .to_owned();
        manager.create_index(once).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager
            .drop_table(Table::drop().table("timeline_entry").to_owned())
            .await
    }
}
