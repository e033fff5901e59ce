//! When the business signed out users whose tokens it keeps or signs itself.

use sea_orm_migration::prelude::*;

use crate::columns::{clustered, number};

#[derive(DeriveMigrationName)]
pub struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let mut table = Table::create()
            .table("sign_out")
            .col(number("user_id"))
            .col(number("device_id"))
            .col(number("count"))
            .col(number("at_s"))
            .col(ColumnDef::new("token_hash").var_binary(32).not_null())
            .primary_key(Index::create().col("user_id").col("device_id"))
            .to_owned();
        clustered(manager, &mut table);
        manager.create_table(table).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager
            .drop_table(Table::drop().table("sign_out").to_owned())
            .await
    }
}
