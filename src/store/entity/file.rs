//! Uploaded files, and uploads under way.

use sea_orm::entity::prelude::*;

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "file")]
pub struct Model {
    #[sea_orm(primary_key)]
    pub id: i64,
    pub key: String,
    pub user_id: i64,
    pub state: i16,
    pub name: String,
    pub content_type: String,
    pub size: i64,
    #[sea_orm(column_type = "VarBinary(StringLen::N(32))")]
    pub sha256: Vec<u8>,
    pub upload_id: String,
    pub created_at: i64,
    pub expires_at: i64,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
