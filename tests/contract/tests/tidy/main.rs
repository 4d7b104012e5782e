//! Rules about the whole repository that no compiler checks, such as the agreement of code and
//! documents.
//!
//! Every rule reads the repository's files, and lists all violations with file and line, what is
//! wrong, and what to do. `docs/architecture.md` says which invariants depend on these rules.

#![forbid(unsafe_code)]

mod dependencies;
mod import_circles;
mod layers;
mod line_lengths;
mod links;
mod manifests;
mod markdown;
mod outcomes;
mod paths;
mod repository;
mod rust_text;
mod type_names;
mod unsafe_code;
mod violations;
mod vocabulary;
