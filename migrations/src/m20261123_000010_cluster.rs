//! What all instances on one database share: one row.

use sea_orm_migration::prelude::*;

use crate::columns::{kind, number};

#[derive(DeriveMigrationName)]
pub struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let table = Table::create()
            .table("cluster")
            .col(kind("id").primary_key())
            .col(number("epoch"))
            .col(ColumnDef::new("code_key").var_binary(32).not_null())
            .to_owned();
        manager.create_table(table).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager
            .drop_table(Table::drop().table("cluster").to_owned())
            .await
    }
}
