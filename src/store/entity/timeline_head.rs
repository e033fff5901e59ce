//! The last position of every timeline.

use sea_orm::entity::prelude::*;

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "timeline_head")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub owner_type: i16,
    #[sea_orm(primary_key, auto_increment = false)]
    pub owner_id: i64,
    pub seq: i64,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
