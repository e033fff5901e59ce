//! Where the next block of ids begins, per kind of id.

use sea_orm_migration::prelude::*;

use crate::columns::{binary_texts, number, text};

#[derive(DeriveMigrationName)]
pub struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let mut table = Table::create()
            .table("id_block")
            .col(text(manager, "name", 32).primary_key())
            .col(number("next"))
            .to_owned();
        binary_texts(manager, &mut table);
        manager.create_table(table).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager
            .drop_table(Table::drop().table("id_block").to_owned())
            .await
    }
}
