//! Messages of which is still to be seen whether they have reached anybody, by when that is.

use sea_orm_migration::prelude::*;

use crate::columns::{clustered, number};

#[derive(DeriveMigrationName)]
pub struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let mut table = Table::create()
            .table("undelivered_check")
            .if_not_exists()
            .col(number("due_at"))
            .col(number("message_id"))
            .primary_key(Index::create().col("due_at").col("message_id"))
            .to_owned();
        clustered(manager, &mut table);
        manager.create_table(table).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager
            .drop_table(Table::drop().table("undelivered_check").to_owned())
            .await
    }
}
