//! The hub: takes what agents observed, diagnoses as it arrives, keeps incidents, and answers questions.
//!
//! How: one tokio thread serves two listeners, gRPC with mutual TLS for agents (`ingest`) and HTTP for
//! people and programs (`http`), who pass the `guard`. Everything that decides lives on one other thread, the `desk`: it owns the diagnosis
//! engine and the incident book, and is reached through one bounded queue. A third, the `keeper`, writes incidents to
//! disk and publishes them, so that a slow disk holds up nothing else.
//!
//! Invariants: observations sent = stored + counted losses, each loss by its reason; an incident is on disk (fsync)
//! before anybody is told of it being opened, closed or reopened; an agent speaks only for the host its certificate
//! names; the same recording gives the same verdicts ([`replay`]); every queue and table is bounded.
//! Absent on purpose: configuration files and the environment (`app` reads them; but for what changes while the hub runs:
//! the access file and the certificate of its pages), and any probing.
#![forbid(unsafe_code)]

mod agents;
mod alerts;
mod api;
mod ask;
mod book;
mod care;
mod config;
mod desk;
mod diagnosis;
mod error;
mod exports;
mod flight;
mod guard;
mod guide;
mod heard;
mod http;
mod incident;
mod ingest;
mod keeper;
mod ledger;
mod map;
mod matrix;
mod measured;
mod metrics;
mod now;
mod pages;
mod receivers;
mod replay;
mod rows;
mod sensed;
mod serve;
mod store;
mod tasks;
#[cfg(test)]
mod tests;
mod told;
mod view;

pub use crate::tasks::{GivenView, LookView, TaskView, TraceView, TracedHop, TracedPath};
pub use ask::{ColumnView, QueryView, Question, SchemaColumn, SchemaFunction, SchemaTable, SchemaView};
pub use care::{RetrospectiveView, SeriesView, SideView};
pub use config::{Config, WebTls};
pub use error::{HubError, StoreError};
pub use guard::{MeView, access};
pub use map::{HealthView, LinksHealthView, MapLinksView, MapView, NodesView, SpanView};
pub use matrix::{MatrixView, PatternView};
pub use now::{AgentsView, ChangeView, IngestView, NowView, PlaneView};
pub use pages::{DocEntry, DocView};
pub use receivers::{FlowsSection, Receivers};
pub use replay::{ReplayError, Replayed, replay};
pub use serve::{Bound, serve};
pub use tables::{Environment, Place, backup};
pub use view::{
    AgentView, CareView, ComponentView, CountedView, EvidenceView, FabricView, FaultView, FlapView,
    GuideView, Health, HurtView, IncidentDetail, IncidentView, LabelView, LinkView, NoteView, PathHopView,
    PathView, PathsView, PrecisionRow, PrecisionView, Ready, TallyView, TimelineView, TopView,
};

/// What agent and hub say to each other: the service generated from `wire`'s one file.
pub(crate) mod rpc {
    #![allow(missing_docs, unreachable_pub, clippy::all)]
    include!(concat!(env!("OUT_DIR"), "/selvedge.v1.rs"));
}

/// The wall clock, as nanoseconds since the Unix epoch.
pub(crate) fn wall() -> wire::Nanos {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    wire::Nanos(u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
}
