//! Verification codes and the count of wrong attempts, per phone number.

use sea_orm_migration::prelude::*;

use crate::columns::{binary_texts, number, text};

#[derive(DeriveMigrationName)]
pub struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let mut table = Table::create()
            .table("verification_code")
            .col(text(manager, "phone_number", 16).primary_key())
            .col(ColumnDef::new("code_hash").var_binary(32))
            .col(number("sent_at"))
            .col(number("expires_at"))
            .col(ColumnDef::new("attempts").integer().not_null())
            .col(number("attempts_since"))
            .to_owned();
        binary_texts(manager, &mut table);
        manager.create_table(table).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager
            .drop_table(Table::drop().table("verification_code").to_owned())
            .await
    }
}
