//! Column shapes that more than one migration uses.

use sea_orm_migration::{prelude::*, sea_orm::DbBackend};

/// A primary key that the server chooses. On SQLite it must be of type `INTEGER` to be the row id
/// itself; any other type costs a second B-tree (<https://sqlite.org/lang_createtable.html#rowid>).
pub fn assigned_id(manager: &SchemaManager<'_>, name: &'static str) -> ColumnDef {
    let mut column = ColumnDef::new(name);
    match manager.get_database_backend() {
        DbBackend::Sqlite => column.integer(),
        _ => column.big_integer(),
    };
    column.not_null().primary_key();
    column
}

/// A primary key that the database counts up and never hands out twice.
pub fn counted_id(name: &'static str) -> ColumnDef {
    let mut column = ColumnDef::new(name);
    column
        .big_integer()
        .not_null()
        .auto_increment()
        .primary_key();
    column
}

/// A 64-bit number: an id, a seq, or a time in unix milliseconds.
pub fn number(name: &'static str) -> ColumnDef {
    let mut column = ColumnDef::new(name);
    column.big_integer().not_null();
    column
}

/// A small number: an enum value of the contract.
pub fn kind(name: &'static str) -> ColumnDef {
    let mut column = ColumnDef::new(name);
    column.small_integer().not_null();
    column
}

/// A string of at most `bytes_max` bytes, compared by its bytes as SQLite does, whatever the server's
/// locale is. On MySQL that is told of the whole [table](binary_texts).
pub fn text(manager: &SchemaManager<'_>, name: &'static str, bytes_max: u32) -> ColumnDef {
    let mut column = ColumnDef::new(name);
    column.string_len(bytes_max).not_null();
    if manager.get_database_backend() == DbBackend::Postgres {
        column.extra("COLLATE \"C\"");
    }
    column
}

/// Texts of a table are Unicode and compared by their bytes, whatever MySQL's default is.
pub fn binary_texts(manager: &SchemaManager<'_>, table: &mut TableCreateStatement) {
    if manager.get_database_backend() == DbBackend::MySql {
        table.character_set("utf8mb4").collate("utf8mb4_bin");
    }
}

/// Stores rows in the primary key's own B-tree, as InnoDB does anyway. Right for narrow rows that
/// are only found by their key (<https://sqlite.org/withoutrowid.html>).
pub fn clustered(manager: &SchemaManager<'_>, table: &mut TableCreateStatement) {
    if manager.get_database_backend() == DbBackend::Sqlite {
        table.extra("WITHOUT ROWID");
    }
}
