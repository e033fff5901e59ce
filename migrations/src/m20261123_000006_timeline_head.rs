//! The last position of every timeline; its row lock orders the appends.

use sea_orm_migration::prelude::*;

use crate::columns::{clustered, kind, number};

#[derive(DeriveMigrationName)]
pub struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let mut table = Table::create()
            .table("timeline_head")
            .col(kind("owner_type"))
            .col(number("owner_id"))
            .col(number("seq"))
            .primary_key(Index::create().col("owner_type").col("owner_id"))
            .to_owned();
        clustered(manager, &mut table);
        manager.create_table(table).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager
            .drop_table(Table::drop().table("timeline_head").to_owned())
            .await
    }
}
