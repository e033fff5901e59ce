//! What signs a device in; only hashes are stored.

use sea_orm_migration::prelude::*;

use crate::columns::number;

#[derive(DeriveMigrationName)]
pub struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let table = Table::create()
            .table("auth_token")
            .col(number("device_id").primary_key())
            .col(number("user_id"))
            .col(ColumnDef::new("token_hash").var_binary(32).not_null())
            .col(number("expires_at"))
            .to_owned();
        manager.create_table(table).await?;
        let by_user = Index::create()
            .name("auth_token_user_id")
            .table("auth_token")
            .col("user_id")
            .to_owned();
        manager.create_index(by_user).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager
            .drop_table(Table::drop().table("auth_token").to_owned())
            .await
    }
}
