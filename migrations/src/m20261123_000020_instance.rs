//! Instances whose devices are written as online; each counts on while it lives.

use sea_orm_migration::prelude::*;

use crate::columns::{clustered, number};

#[derive(DeriveMigrationName)]
pub struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let mut table = Table::create()
            .table("instance")
            .if_not_exists()
            .col(number("id").primary_key())
            .col(number("beat"))
            .to_owned();
        clustered(manager, &mut table);
        manager.create_table(table).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager
            .drop_table(Table::drop().table("instance").to_owned())
            .await
    }
}
