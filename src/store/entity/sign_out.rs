//! When the business signed out users whose tokens it keeps or signs itself.

use sea_orm::entity::prelude::*;

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "sign_out")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub user_id: i64,
    /// 0: all of the user's devices.
    #[sea_orm(primary_key, auto_increment = false)]
    pub device_id: i64,
    pub count: i64,
    pub at_s: i64,
    /// The token the device had then, as far as is known; empty for none.
    pub token_hash: Vec<u8>,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
