//! real queries
