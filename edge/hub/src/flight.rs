//! The same questions over Arrow Flight SQL, for ADBC, JDBC, Python and Grafana.
//!
//! How: arrow-flight's service; a ticket and a prepared statement's handle are the statement itself, so nothing is kept
//! between two calls. The tables' room refuses everything that does more than read.
//! Who calls is known by a bearer token, or by the session that a handshake with name and password begins.
//! Invariants: an answer keeps to [`LIMITS`]; a client that goes away ends its question; nobody is answered whom
//! [`caller`] does not know.
//! Absent on purpose: parameters of prepared statements, transactions and updates.

use crate::guard::{By, Guard, Need, Principal, address_of};
use crate::metrics::Metrics;
use arrow_flight::encode::FlightDataEncoderBuilder;
use arrow_flight::error::FlightError;
use arrow_flight::flight_service_server::FlightService;
use arrow_flight::sql::metadata::{SqlInfoData, SqlInfoDataBuilder};
use arrow_flight::sql::server::FlightSqlService;
use arrow_flight::sql::{
    ActionClosePreparedStatementRequest, ActionCreatePreparedStatementRequest,
    ActionCreatePreparedStatementResult, CommandGetCatalogs, CommandGetDbSchemas, CommandGetSqlInfo,
    CommandGetTableTypes, CommandGetTables, CommandPreparedStatementQuery, CommandStatementQuery,
    ProstMessageExt, SqlInfo, TicketStatementQuery,
};
use arrow_flight::{
    Action, FlightDescriptor, FlightEndpoint, FlightInfo, HandshakeRequest, HandshakeResponse, IpcMessage,
    SchemaAsIpc, Ticket,
};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD as BASE64;
use futures_util::stream::{TryStreamExt as _, once, unfold};
use prost::Message as _;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::{Arc, LazyLock};
use std::time::Duration;
use tables::arrow::array::RecordBatch;
use tables::arrow::datatypes::SchemaRef;
use tables::arrow::ipc::writer::IpcWriteOptions;
use tables::schema::TABLES;
use tables::{Limits, Tables, TablesError};
use tonic::{Request, Response, Status, Streaming};

const LIMITS: Limits = Limits { rows: 10_000_000, within: Duration::from_secs(300) };
const CATALOG: &str = "selvedge";
const SCHEMA: &str = "public";

static INFO: LazyLock<Option<SqlInfoData>> = LazyLock::new(|| {
    let mut info = SqlInfoDataBuilder::new();
    info.append(SqlInfo::FlightSqlServerName, "Selvedge");
    info.append(SqlInfo::FlightSqlServerVersion, env!("CARGO_PKG_VERSION"));
    info.append(SqlInfo::FlightSqlServerArrowVersion, "1.3");
    info.append(SqlInfo::FlightSqlServerReadOnly, true);
    info.append(SqlInfo::FlightSqlServerSql, true);
    info.append(SqlInfo::FlightSqlServerSubstrait, false);
    info.append(SqlInfo::FlightSqlServerTransaction, 0i32);
    info.build().ok()
});

#[derive(Clone)]
pub(crate) struct Flight {
    pub tables: Arc<Tables>,
    pub metrics: Arc<Metrics>,
    pub guard: Arc<Guard>,
}

/// How a client said who it is.
#[derive(Clone, Debug)]
enum Caller {
    /// By a token, or a session's id.
    Known(Box<Principal>),
    /// By name and password, which a handshake changes for a session.
    Password(Option<IpAddr>, String, String),
}

/// Looks at who calls, before anything else is done.
pub(crate) fn caller(guard: &Guard, mut request: Request<()>) -> Result<Request<()>, Status> {
    let address = address_of(request.remote_addr());
    let nobody = By { address, auth: "none", ..By::default() };
    if guard.is_too_fast(address) {
        guard.audit.refused(nobody, "request", "flight", "too_fast");
        return Err(Status::resource_exhausted("too many requests; wait a second"));
    }
    let said = request.metadata().get("authorization").and_then(|v| v.to_str().ok()).map(str::to_owned);
    let caller = match said.as_deref().and_then(|v| v.strip_prefix("Basic ")) {
        Some(encoded) if guard.is_closed() => {
            let both = BASE64.decode(encoded.trim()).ok().and_then(|b| String::from_utf8(b).ok());
            let both = both.as_deref().and_then(|b| b.split_once(':'));
            let (name, password) =
                both.ok_or_else(|| Status::unauthenticated("expected name:password in Base64"))?;
            Caller::Password(address, name.to_owned(), password.to_owned())
        }
        _ => {
            let said = said.filter(|_| guard.is_closed());
            let known = guard.known(said.as_deref(), None, address).map_err(|why| {
                guard.audit.refused(nobody, "request", "flight", why);
                Status::unauthenticated(format!(
                    "{why}: expected authorization: Bearer TOKEN, or name and password"
                ))
            })?;
            if let Err(error) = known.may(Need::Query) {
                guard.audit.refused(known.by(), "request", "flight", "role");
                return Err(Status::permission_denied(error));
            }
            Caller::Known(Box::new(known))
        }
    };
    request.extensions_mut().insert(caller);
    Ok(request)
}

fn who<T>(request: &Request<T>) -> Result<Principal, Status> {
    match request.extensions().get::<Caller>() {
        Some(Caller::Known(who)) => Ok(who.as_ref().clone()),
        _ => {
            Err(Status::unauthenticated("a password is for the handshake, which gives a token for the rest"))
        }
    }
}

type Stream = <Flight as FlightService>::DoGetStream;

fn status(e: &TablesError) -> Status {
    match e {
        TablesError::Question { reason } => Status::invalid_argument(reason.clone()),
        TablesError::Forbidden { .. } => Status::permission_denied(e.to_string()),
        TablesError::Limit { reason } => Status::resource_exhausted(reason.clone()),
        other => Status::unavailable(other.to_string()),
    }
}

fn broken(e: impl std::fmt::Display) -> Status {
    Status::internal(e.to_string())
}

fn text(bytes: &[u8]) -> Result<String, Status> {
    String::from_utf8(bytes.to_vec()).map_err(|_| Status::invalid_argument("expected a statement as UTF-8"))
}

fn info(
    schema: &SchemaRef,
    ticket: Vec<u8>,
    descriptor: FlightDescriptor,
) -> Result<Response<FlightInfo>, Status> {
    let endpoint = FlightEndpoint::new().with_ticket(Ticket { ticket: ticket.into() });
    let info = FlightInfo::new().try_with_schema(schema).map_err(broken)?;
    Ok(Response::new(info.with_endpoint(endpoint).with_descriptor(descriptor)))
}

/// What a command about the catalog answers: its ticket is the command.
fn about(
    command: &impl ProstMessageExt,
    schema: &SchemaRef,
    descriptor: FlightDescriptor,
) -> Result<Response<FlightInfo>, Status> {
    info(schema, command.as_any().encode_to_vec(), descriptor)
}

fn one(batch: RecordBatch) -> Response<Stream> {
    let schema = batch.schema();
    let batches = once(async move { Ok(batch) });
    let encoded = FlightDataEncoderBuilder::new().with_schema(schema).build(batches).map_err(Status::from);
    Response::new(Box::pin(encoded))
}

impl Flight {
    /// Why a statement is not run; written down where it wanted more than to read.
    fn refused(&self, who: &Principal, sql: &str, e: &TablesError) -> Status {
        if let TablesError::Forbidden { .. } = e {
            self.guard.audit.refused(who.by(), "query", sql, "statement");
        }
        status(e)
    }

    async fn statement(&self, who: &Principal, sql: &str) -> Result<Response<Stream>, Status> {
        self.metrics.requests.inc();
        let answer = self.tables.ask_as(&who.sight, sql, LIMITS).await;
        let answer = answer.map_err(|e| self.refused(who, sql, &e))?;
        if answer.is_sensitive() {
            self.guard.audit.done(&who.by(), "query", sql, "").await.map_err(|e| status(&e))?;
        }
        let schema = answer.schema();
        let batches = unfold(Some(answer), |answer| async move {
            let mut answer = answer?;
            match answer.next().await {
                Some(Ok(batch)) => Some((Ok(batch), Some(answer))),
                Some(Err(e)) => Some((Err(FlightError::Tonic(Box::new(status(&e)))), None)),
                None if answer.truncated() => {
                    let said = format!("the answer has more than {} rows: ask for fewer", LIMITS.rows);
                    Some((Err(FlightError::Tonic(Box::new(Status::resource_exhausted(said)))), None))
                }
                None => None,
            }
        });
        let encoded =
            FlightDataEncoderBuilder::new().with_schema(schema).build(batches).map_err(Status::from);
        Ok(Response::new(Box::pin(encoded)))
    }

    async fn statement_info(
        &self,
        sql: &str,
        request: Request<FlightDescriptor>,
        ticket: Vec<u8>,
    ) -> Result<Response<FlightInfo>, Status> {
        self.metrics.requests.inc();
        let who = who(&request)?;
        let descriptor = request.into_inner();
        let schema = self.tables.columns(&who.sight, sql).await;
        let schema = schema.map_err(|e| self.refused(&who, sql, &e))?;
        info(&schema, ticket, descriptor)
    }
}

#[tonic::async_trait]
impl FlightSqlService for Flight {
    type FlightService = Flight;

    async fn do_handshake(
        &self,
        request: Request<Streaming<HandshakeRequest>>,
    ) -> Result<
        Response<Pin<Box<dyn futures_util::Stream<Item = Result<HandshakeResponse, Status>> + Send>>>,
        Status,
    > {
        self.metrics.requests.inc();
        let bearer = match request.extensions().get::<Caller>() {
            Some(Caller::Password(address, name, password)) => {
                let begun = self.guard.log_in(name, password.clone(), *address).await;
                Some(begun.map_err(|problem| Status::unauthenticated(problem.said()))?)
            }
            Some(Caller::Known(_)) => None,
            None => return Err(Status::unauthenticated("expected name and password")),
        };
        let payload = bearer.clone().unwrap_or_default();
        let answer = HandshakeResponse { protocol_version: 0, payload: payload.into() };
        let mut response: Response<Pin<Box<dyn futures_util::Stream<Item = _> + Send>>> =
            Response::new(Box::pin(once(async move { Ok(answer) })));
        if let Some(token) = bearer {
            let value = format!("Bearer {token}").parse().map_err(broken)?;
            response.metadata_mut().insert("authorization", value);
        }
        Ok(response)
    }

    async fn get_flight_info_statement(
        &self,
        query: CommandStatementQuery,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        let ticket = TicketStatementQuery { statement_handle: query.query.clone().into() };
        self.statement_info(&query.query, request, ticket.as_any().encode_to_vec()).await
    }

    async fn do_get_statement(
        &self,
        ticket: TicketStatementQuery,
        request: Request<Ticket>,
    ) -> Result<Response<Stream>, Status> {
        self.statement(&who(&request)?, &text(&ticket.statement_handle)?).await
    }

    async fn do_action_create_prepared_statement(
        &self,
        query: ActionCreatePreparedStatementRequest,
        request: Request<Action>,
    ) -> Result<ActionCreatePreparedStatementResult, Status> {
        self.metrics.requests.inc();
        let schema =
            self.tables.columns(&who(&request)?.sight, &query.query).await.map_err(|e| status(&e))?;
        let options = IpcWriteOptions::default();
        let message: IpcMessage = SchemaAsIpc::new(&schema, &options).try_into().map_err(broken)?;
        Ok(ActionCreatePreparedStatementResult {
            prepared_statement_handle: query.query.into(),
            dataset_schema: message.0,
            parameter_schema: Vec::new().into(),
        })
    }

    async fn do_action_close_prepared_statement(
        &self,
        _: ActionClosePreparedStatementRequest,
        _: Request<Action>,
    ) -> Result<(), Status> {
        Ok(())
    }

    async fn get_flight_info_prepared_statement(
        &self,
        command: CommandPreparedStatementQuery,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        let sql = text(&command.prepared_statement_handle)?;
        self.statement_info(&sql, request, command.as_any().encode_to_vec()).await
    }

    async fn do_get_prepared_statement(
        &self,
        command: CommandPreparedStatementQuery,
        request: Request<Ticket>,
    ) -> Result<Response<Stream>, Status> {
        self.statement(&who(&request)?, &text(&command.prepared_statement_handle)?).await
    }

    async fn get_flight_info_catalogs(
        &self,
        command: CommandGetCatalogs,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        about(&command, &command.into_builder().schema(), request.into_inner())
    }

    async fn do_get_catalogs(
        &self,
        command: CommandGetCatalogs,
        _: Request<Ticket>,
    ) -> Result<Response<Stream>, Status> {
        let mut builder = command.into_builder();
        builder.append(CATALOG);
        builder.build().map(one).map_err(broken)
    }

    async fn get_flight_info_schemas(
        &self,
        command: CommandGetDbSchemas,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        about(&command, &command.clone().into_builder().schema(), request.into_inner())
    }

    async fn do_get_schemas(
        &self,
        command: CommandGetDbSchemas,
        _: Request<Ticket>,
    ) -> Result<Response<Stream>, Status> {
        let mut builder = command.into_builder();
        builder.append(CATALOG, SCHEMA);
        builder.build().map(one).map_err(broken)
    }

    async fn get_flight_info_tables(
        &self,
        command: CommandGetTables,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        about(&command, &command.clone().into_builder().schema(), request.into_inner())
    }

    async fn do_get_tables(
        &self,
        command: CommandGetTables,
        _: Request<Ticket>,
    ) -> Result<Response<Stream>, Status> {
        let mut builder = command.into_builder();
        for t in TABLES {
            builder.append(CATALOG, SCHEMA, t.name, "TABLE", &t.schema()).map_err(broken)?;
        }
        builder.build().map(one).map_err(broken)
    }

    async fn get_flight_info_table_types(
        &self,
        command: CommandGetTableTypes,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        about(&command, &command.into_builder().schema(), request.into_inner())
    }

    async fn do_get_table_types(
        &self,
        command: CommandGetTableTypes,
        _: Request<Ticket>,
    ) -> Result<Response<Stream>, Status> {
        let mut builder = command.into_builder();
        builder.append("TABLE");
        builder.build().map(one).map_err(broken)
    }

    async fn get_flight_info_sql_info(
        &self,
        command: CommandGetSqlInfo,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        let known = INFO.as_ref().ok_or_else(|| Status::internal("no information"))?;
        about(&command, &command.clone().into_builder(known).schema(), request.into_inner())
    }

    async fn do_get_sql_info(
        &self,
        command: CommandGetSqlInfo,
        _: Request<Ticket>,
    ) -> Result<Response<Stream>, Status> {
        let known = INFO.as_ref().ok_or_else(|| Status::internal("no information"))?;
        command.into_builder(known).build().map(one).map_err(broken)
    }

    async fn register_sql_info(&self, _: i32, _: &SqlInfo) {}
}
