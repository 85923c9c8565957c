//! SQL functions a network person wants: names, paths and links by arithmetic from the fabric, and addresses.
//!
//! Invariants: an id that is none of this fabric gives null, never an error; every function is in [`LIST`], from which
//! the reference page and the completion of the page *Ask* are made.

use crate::query::Sight;
use arrow::array::{
    ArrayRef, AsArray, BooleanArray, Int32Array, Int64Array, ListBuilder, StringArray, StringBuilder,
};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Int64Type};
use datafusion::common::{DataFusionError, ScalarValue};
use datafusion::logical_expr::expr_fn::SimpleScalarUDF;
use datafusion::logical_expr::{ColumnarValue, ScalarUDF, Signature, Volatility, create_udf};
use fabric::{Fabric, Node};
use ipnet::IpNet;
use std::net::IpAddr;
use std::sync::Arc;
use wire::{Component, HostId, LinkId, PathId};

/// One function, for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Function {
    /// Its name.
    pub name: &'static str,
    /// Arguments and result.
    pub signature: &'static str,
    /// What it gives.
    pub text: &'static str,
    /// A call that works.
    pub example: &'static str,
}

/// Every function there is besides SQL's own.
pub const LIST: &[Function] = &[
    Function {
        name: "host_name",
        signature: "host_name(int) -> text",
        text: "Name of a host.",
        example: "host_name(producer)",
    },
    Function {
        name: "link_name",
        signature: "link_name(int) -> text",
        text: "Name of a directed link.",
        example: "link_name(link)",
    },
    Function {
        name: "path_name",
        signature: "path_name(long) -> text",
        text: "The nodes a path visits.",
        example: "path_name(path)",
    },
    Function {
        name: "path_from",
        signature: "path_from(long) -> text",
        text: "Host a path begins at.",
        example: "path_from(path)",
    },
    Function {
        name: "path_to",
        signature: "path_to(long) -> text",
        text: "Host a path ends at.",
        example: "path_to(path)",
    },
    Function {
        name: "path_from_leaf",
        signature: "path_from_leaf(long) -> text",
        text: "Leaf a path enters the fabric at.",
        example: "path_from_leaf(path)",
    },
    Function {
        name: "path_to_leaf",
        signature: "path_to_leaf(long) -> text",
        text: "Leaf a path leaves the fabric at.",
        example: "path_to_leaf(path)",
    },
    Function {
        name: "path_plane",
        signature: "path_plane(long) -> int",
        text: "Plane of a path.",
        example: "path_plane(path)",
    },
    Function {
        name: "path_links",
        signature: "path_links(long) -> list of text",
        text: "Names of the directed links of a path, in order; unnest() makes rows of them.",
        example: "unnest(path_links(path))",
    },
    Function {
        name: "path_crosses",
        signature: "path_crosses(long, text) -> bool",
        text: "Whether a path crosses a link, switch, NIC or host of that name.",
        example: "path_crosses(path, 'p0-spine0')",
    },
    Function {
        name: "address",
        signature: "address(binary) -> text",
        text: "An address of 16 bytes as text, such as src of a flow.",
        example: "address(src)",
    },
    Function {
        name: "ip_in",
        signature: "ip_in(text, text) -> bool",
        text: "Whether an address lies in a prefix.",
        example: "ip_in('10.0.3.7', '10.0.0.0/8')",
    },
    Function {
        name: "sketch_percentile",
        signature: "sketch_percentile(sketch, float) -> float",
        text: "Percentile of the values in a sketch, within 1 %; 0.99 is the 99th.",
        example: "sketch_percentile(delay_sketch, 0.99)",
    },
    Function {
        name: "sketch_merge",
        signature: "sketch_merge(sketch) -> sketch",
        text: "One sketch of all the values in the sketches of a group.",
        example: "sketch_percentile(sketch_merge(delay_sketch), 0.99)",
    },
];

type Outcome = Result<ColumnarValue, DataFusionError>;

/// Arguments as arrays of one length; whether all were constants.
fn arrays(args: &[ColumnarValue]) -> Result<(Vec<ArrayRef>, bool), DataFusionError> {
    let constant = args.iter().all(|a| matches!(a, ColumnarValue::Scalar(_)));
    Ok((ColumnarValue::values_to_arrays(args)?, constant))
}

fn given(array: ArrayRef, constant: bool) -> Outcome {
    if constant {
        Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&array, 0)?))
    } else {
        Ok(ColumnarValue::Array(array))
    }
}

/// A function of one number of 64 bits.
fn of_long(
    name: &str,
    result: DataType,
    f: impl Fn(&Int64Array) -> ArrayRef + Send + Sync + 'static,
) -> ScalarUDF {
    let run = move |args: &[ColumnarValue]| -> Outcome {
        let (args, constant) = arrays(args)?;
        let Some(ids) = args.first().and_then(|a| a.as_primitive_opt::<Int64Type>()) else {
            return Err(DataFusionError::Execution("expected a number".to_owned()));
        };
        given(f(ids), constant)
    };
    create_udf(name, vec![DataType::Int64], result, Volatility::Immutable, Arc::new(run))
}

/// A name for a number within its kind.
fn of_number(name: &str, f: impl Fn(u32) -> Option<String> + Send + Sync + 'static) -> ScalarUDF {
    of_long(name, DataType::Utf8, move |ids| {
        let names = ids.iter().map(|id| id.and_then(|i| u32::try_from(i).ok()).and_then(&f));
        Arc::new(names.collect::<StringArray>())
    })
}

fn text_of_path(name: &str, f: impl Fn(PathId) -> Option<String> + Send + Sync + 'static) -> ScalarUDF {
    of_long(name, DataType::Utf8, move |ids| {
        Arc::new(ids.iter().map(|p| p.and_then(|p| f(path_id(p)))).collect::<StringArray>())
    })
}

/// Ids keep their 64 bits.
fn path_id(p: i64) -> PathId {
    PathId(p.cast_unsigned())
}

fn address() -> ScalarUDF {
    let run = |args: &[ColumnarValue]| -> Outcome {
        let (args, constant) = arrays(args)?;
        let bytes = args.first().map(|a| cast(a, &DataType::Binary)).transpose()?;
        let Some(bytes) = bytes.as_ref().and_then(|a| a.as_binary_opt::<i32>()) else {
            return Err(DataFusionError::Execution("expected an address of 16 bytes".to_owned()));
        };
        let text = |b: &[u8]| {
            let octets: [u8; 16] = b.try_into().ok()?;
            Some(IpAddr::from(octets).to_canonical().to_string())
        };
        given(Arc::new(bytes.iter().map(|b| b.and_then(text)).collect::<StringArray>()), constant)
    };
    let kinds = Signature::uniform(1, vec![DataType::Binary, DataType::BinaryView], Volatility::Immutable);
    ScalarUDF::from(SimpleScalarUDF::new_with_signature("address", kinds, DataType::Utf8, Arc::new(run)))
}

/// Two arguments of text, or a number and a text.
fn of_two(
    name: &str,
    first: DataType,
    f: impl Fn(&ArrayRef, &StringArray) -> Result<BooleanArray, DataFusionError> + Send + Sync + 'static,
) -> ScalarUDF {
    let run = move |args: &[ColumnarValue]| -> Outcome {
        let (args, constant) = arrays(args)?;
        let [a, b] = args.as_slice() else {
            return Err(DataFusionError::Execution("expected two arguments".to_owned()));
        };
        let Some(text) = b.as_string_opt::<i32>() else {
            return Err(DataFusionError::Execution("expected text".to_owned()));
        };
        given(Arc::new(f(a, text)?), constant)
    };
    create_udf(name, vec![first, DataType::Utf8], DataType::Boolean, Volatility::Immutable, Arc::new(run))
}

fn crosses(fabric: &Fabric, path: PathId, what: Component) -> Option<bool> {
    let links = fabric.path_links(path)?;
    Some(match what {
        Component::Link(l) => links.contains(&l),
        Component::Switch(s) => fabric.path_nodes(path)?.contains(&Node::Switch(s)),
        Component::Nic(n) => fabric.path_nodes(path)?.contains(&Node::Nic(n)),
        Component::Host(h) => {
            let (from, to, _) = fabric.path_parts(path)?;
            fabric.nic_parts(from).1 == h || fabric.nic_parts(to).1 == h
        }
    })
}

/// Whether a path may be seen, by its id. Not among the functions people call.
pub(crate) fn sees_path(sight: &Sight, fabric: &Arc<Fabric>) -> ScalarUDF {
    let (sight, fabric) = (sight.clone(), Arc::clone(fabric));
    of_long("sees_path", DataType::Boolean, move |ids| {
        Arc::new(BooleanArray::from_iter(ids.iter().map(|p| p.map(|p| sight.sees_path(&fabric, path_id(p))))))
    })
}

/// Whether a host may be seen, by its number.
pub(crate) fn sees_host(sight: &Sight, fabric: &Arc<Fabric>) -> ScalarUDF {
    let (sight, fabric) = (sight.clone(), Arc::clone(fabric));
    of_long("sees_host", DataType::Boolean, move |ids| {
        let sees = |h: i64| {
            u32::try_from(h)
                .is_ok_and(|h| h < fabric.shape.hosts && sight.sees(&fabric, Component::Host(HostId(h))))
        };
        Arc::new(BooleanArray::from_iter(ids.iter().map(|h| h.map(sees))))
    })
}

/// Whether a component may be seen, by its name; what is none of this fabric may not.
pub(crate) fn sees_name(sight: &Sight, fabric: &Arc<Fabric>) -> ScalarUDF {
    let (sight, fabric) = (sight.clone(), Arc::clone(fabric));
    let run = move |args: &[ColumnarValue]| -> Outcome {
        let (args, constant) = arrays(args)?;
        let names = args.first().map(|a| cast(a, &DataType::Utf8)).transpose()?;
        let Some(names) = names.as_ref().and_then(|a| a.as_string_opt::<i32>()) else {
            return Err(DataFusionError::Execution("expected text".to_owned()));
        };
        let sees = |name: &str| fabric.component_by_name(name).is_some_and(|c| sight.sees(&fabric, c));
        given(Arc::new(BooleanArray::from_iter(names.iter().map(|n| n.map(sees)))), constant)
    };
    let text = Signature::uniform(
        1,
        vec![DataType::Utf8, DataType::Utf8View, DataType::LargeUtf8],
        Volatility::Immutable,
    );
    ScalarUDF::from(SimpleScalarUDF::new_with_signature("sees_name", text, DataType::Boolean, Arc::new(run)))
}

/// The functions over one fabric.
pub(crate) fn all(fabric: &Arc<Fabric>) -> Vec<ScalarUDF> {
    let text = DataType::Utf8;
    let list = DataType::List(Arc::new(Field::new_list_field(text, true)));
    let f = || Arc::clone(fabric);
    let (hosts, links, name, from, to, plane, path_links, crossing, from_leaf, to_leaf) =
        (f(), f(), f(), f(), f(), f(), f(), f(), f(), f());
    let end = |fabric: Arc<Fabric>, which: fn((wire::NicId, wire::NicId, u32)) -> wire::NicId| {
        move |p: PathId| {
            let nic = which(fabric.path_parts(p)?);
            Some(fabric.host_name(fabric.nic_parts(nic).1))
        }
    };
    let leaf = |fabric: Arc<Fabric>, which: fn((wire::NicId, wire::NicId, u32)) -> wire::NicId| {
        move |p: PathId| Some(fabric.switch_name(fabric.nic_leaf(which(fabric.path_parts(p)?))?))
    };
    vec![
        of_number("host_name", move |h| (h < hosts.shape.hosts).then(|| hosts.host_name(HostId(h)))),
        of_number("link_name", move |l| {
            let l = LinkId(l);
            (l.0 < links.link_bound() && links.exists(l)).then(|| links.link_name(l))
        }),
        text_of_path("path_name", move |p| name.path_parts(p).map(|_| name.path_name(p))),
        text_of_path("path_from_leaf", leaf(from_leaf, |p| p.0)),
        text_of_path("path_to_leaf", leaf(to_leaf, |p| p.1)),
        text_of_path("path_from", end(from, |p| p.0)),
        text_of_path("path_to", end(to, |p| p.1)),
        of_long("path_plane", DataType::Int32, move |ids| {
            let of = |p: i64| {
                let link = plane.path_links(path_id(p))?.iter().next().copied()?;
                Some(i32::from(plane.link_plane(link).0))
            };
            Arc::new(ids.iter().map(|p| p.and_then(of)).collect::<Int32Array>())
        }),
        of_long("path_links", list, move |ids| {
            let mut out = ListBuilder::new(StringBuilder::new());
            for p in ids {
                let links = p.and_then(|p| path_links.path_links(path_id(p)));
                for &l in links.iter().flat_map(|l| l.iter()) {
                    out.values().append_value(path_links.link_name(l));
                }
                out.append(links.is_some());
            }
            Arc::new(out.finish())
        }),
        of_two("path_crosses", DataType::Int64, move |paths, names| {
            let paths = paths.as_primitive_opt::<Int64Type>();
            let paths = paths.ok_or_else(|| DataFusionError::Execution("expected a path".to_owned()))?;
            let mut last: Option<(&str, Component)> = None;
            let mut out = Vec::with_capacity(paths.len());
            for (path, name) in paths.iter().zip(names.iter()) {
                let (Some(path), Some(name)) = (path, name) else {
                    out.push(None);
                    continue;
                };
                let component = match last {
                    Some((known, c)) if known == name => c,
                    _ => crossing.component_by_name(name).ok_or_else(|| {
                        DataFusionError::Execution(format!(
                            "there is no {name:?} in this fabric, expected a link such as p0-leaf0:p0-spine0, a \
                             switch, a NIC or a host"
                        ))
                    })?,
                };
                last = Some((name, component));
                out.push(crosses(&crossing, path_id(path), component));
            }
            Ok(out.into())
        }),
        address(),
        of_two("ip_in", DataType::Utf8, |addresses, prefixes| {
            let addresses = addresses.as_string_opt::<i32>();
            let addresses =
                addresses.ok_or_else(|| DataFusionError::Execution("expected text".to_owned()))?;
            let inside = |(a, p): (Option<&str>, Option<&str>)| {
                let (Some(a), Some(p)) = (a, p) else { return Ok(None) };
                let net: IpNet = p.parse().map_err(|_| {
                    DataFusionError::Execution(format!("{p:?} is no prefix, expected one such as 10.0.0.0/8"))
                })?;
                Ok(a.parse::<IpAddr>().ok().map(|a| net.contains(&a)))
            };
            let found: Result<Vec<Option<bool>>, DataFusionError> =
                addresses.iter().zip(prefixes.iter()).map(inside).collect();
            Ok(found?.into())
        }),
    ]
}
