//! Friends: who asked whom, and after the other has agreed one row for each of the two.

use sea_orm_migration::prelude::*;

use crate::columns::{binary_texts, clustered, kind, number, text};

#[derive(DeriveMigrationName)]
pub struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let mut table = Table::create()
            .table("friend")
            .col(number("user_id"))
            .col(number("friend_id"))
            .col(text(manager, "remarks", 512))
            .col(text(manager, "extra", 2_048))
            .col(kind("status"))
            .col(number("created_at"))
            .col(number("updated_at"))
            .primary_key(Index::create().col("user_id").col("friend_id"))
            .to_owned();
        clustered(manager, &mut table);
        binary_texts(manager, &mut table);
        manager.create_table(table).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager
            .drop_table(Table::drop().table("friend").to_owned())
            .await
    }
}
