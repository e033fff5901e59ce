//! The code generated from `proto/`: messages, services and the descriptors for reflection.
//!
//! Nothing is written by hand here; what a field means stands in the `.proto` files.

#![allow(missing_docs, clippy::all)]

tonic::include_proto!("pb");

/// What instances tell each other.
pub mod bridge {
    tonic::include_proto!("bridge");
}

/// Descriptors of the services devices call, for gRPC reflection.
pub const EXTERNAL_DESCRIPTORS: &[u8] =
    include_bytes!(concat!(env!("OUT_DIR"), "/external_descriptor.bin"));

/// Descriptors of the services a business server calls, for gRPC reflection.
pub const INTERNAL_DESCRIPTORS: &[u8] =
    include_bytes!(concat!(env!("OUT_DIR"), "/internal_descriptor.bin"));
