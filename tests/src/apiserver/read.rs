//! get and list.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::{
    events,
    request::Query,
    respond::Form,
    select::{Fields, Labels},
    state::{Api, Call, scope},
    status::Status,
    store::{Key, Scope},
};

/// One object.
///
/// # Errors
/// There is none: 404.
pub(super) fn get(api: &Api, call: &Call, form: Form) -> Result<Value, Status> {
    let target = &call.target;
    let name = target.name.as_deref().unwrap_or_default();
    let found = api.lock().find(target);
    let found = found.ok_or_else(|| Status::not_found(&target.resource, name))?;
    Ok(form.of(&events::view(&found, &target.resource)))
}

/// Which objects of a scope are wanted.
#[derive(Clone, Debug)]
pub(super) struct Selection {
    pub(super) scope: Scope,
    labels: Labels,
    fields: Fields,
}

impl Selection {
    /// Reads the selectors of a query. A name in the path of a watch is a selector too.
    ///
    /// # Errors
    /// A selector can't be read, or names a field that is not indexed: 400.
    pub(super) fn new(call: &Call) -> Result<Self, Status> {
        let query = &call.query;
        let resource = &call.target.resource;
        let labels = query.find("labelSelector").unwrap_or_default();
        let mut fields = query.find("fieldSelector").unwrap_or_default().to_owned();
        if let Some(name) = &call.target.name {
            let comma = if fields.is_empty() { "" } else { "," };
            fields = format!("metadata.name={name}{comma}{fields}");
        }
        let refuse = |why: String| {
            Status::bad_request(format!(
                "Unable to find {:?} that match label selector {labels:?}, field selector {fields:?}: {why}",
                format!("{}, Resource={}", resource.api_version(), resource.plural),
            ))
        };
        Ok(Self {
            scope: scope(&call.target),
            labels: Labels::parse(labels).map_err(Status::bad_request)?,
            fields: Fields::parse(&fields, resource).map_err(refuse)?,
        })
    }

    /// Whether an object of the scope is wanted.
    pub(super) fn wants(&self, object: &Value) -> bool {
        self.labels.match_object(object) && self.fields.match_object(object)
    }
}

/// Objects of a scope, all or a page of them.
///
/// # Errors
/// Bad parameters (400), a revision that is gone (410) or not there yet (504).
pub(super) fn list(api: &Api, call: &Call, form: Form) -> Result<Value, Status> {
    let selection = Selection::new(call)?;
    let resource = &call.target.resource;
    let page = Page::new(&call.query)?;
    let (items, revision) = {
        let state = api.lock();
        let current = state.store.revision();
        let revision = page.revision(current)?;
        let items = match revision {
            // A list as of now needs no history.
            revision if revision == current => {
                let now = state.store.list(&selection.scope);
                now.map(|(key, object)| (key.clone(), object.clone()))
                    .collect()
            }
            revision => state
                .store
                .list_at(&selection.scope, revision)
                .map_err(|_| match page.after {
                    Some(_) => page.expired(),
                    None => Status::expired(format!(
                        "The resourceVersion for the provided list is too old: {revision}"
                    )),
                })?,
        };
        (items, revision)
    };
    let after = |key: &Key| match &page.after {
        Some((namespace, name)) => (&key.namespace, &key.name) > (namespace, name),
        None => true,
    };
    let items = items.into_iter();
    let mut wanted = items
        .filter(|(key, object)| after(key) && selection.wants(object))
        .peekable();
    let mut listed: Vec<Value> = Vec::new();
    let mut last: Option<Key> = None;
    while page.limit.is_none_or(|limit| listed.len() < limit)
        && let Some((key, object)) = wanted.next()
    {
        listed.push(item(&object, call, form));
        last = Some(key);
    }
    let mut metadata = Map::new();
    metadata.insert("resourceVersion".to_owned(), revision.to_string().into());
    if let Some(last) = last
        && wanted.peek().is_some()
    {
        metadata.insert("continue".to_owned(), Page::token(revision, &last).into());
        metadata.insert("remainingItemCount".to_owned(), wanted.count().into());
    }
    let (kind, version) = match form {
        Form::Whole => (resource.list_kind.clone(), resource.api_version()),
        Form::Metadata => {
            let kind = "PartialObjectMetadataList";
            (kind.to_owned(), "meta.k8s.io/v1".to_owned())
        }
    };
    Ok(json!({ "kind": kind, "apiVersion": version, "metadata": metadata, "items": listed }))
}

/// A list's items don't repeat their kind, except those of custom resources.
fn item(object: &Arc<Value>, call: &Call, form: Form) -> Value {
    let resource = &call.target.resource;
    let mut item = form.of(&events::view(object, resource));
    if resource.custom.is_none()
        && form == Form::Whole
        && let Some(map) = item.as_object_mut()
    {
        map.remove("kind");
        map.remove("apiVersion");
    }
    item
}

/// Which part of a list is wanted, and of which revision.
#[derive(Debug)]
struct Page {
    limit: Option<usize>,
    /// The namespace and name of the last item of the page before.
    after: Option<(String, String)>,
    /// The revision that a continued list began with; 0: the current one.
    begun: u64,
    revision: Option<u64>,
    exact: bool,
}

impl Page {
    fn new(query: &Query) -> Result<Self, Status> {
        let version = query.find("resourceVersion");
        let matching = query.find("resourceVersionMatch");
        let bad = |why: &str| Status::bad_request(why.to_owned());
        let revision: Option<u64> =
            match version {
                Some(text) => Some(text.parse().map_err(|_| {
                    bad(&format!("invalid resource version {text:?}: not a number"))
                })?),
                None => None,
            };
        if matching.is_some() && version.is_none() {
            return Err(Status::unprocessable(
                "resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden unless resourceVersion is provided",
            ));
        }
        let limit = query.number("limit")?.filter(|&limit: &usize| limit > 0);
        let mut page = Self {
            limit,
            after: None,
            begun: 0,
            revision,
            exact: matching == Some("Exact"),
        };
        if let Some(token) = query.find("continue") {
            if version.is_some_and(|version| version != "0") {
                return Err(bad(
                    "specifying resource version is not allowed when using continue",
                ));
            }
            let (begun, rest) = token.split_once('.').ok_or_else(bad_token)?;
            let (namespace, name) = rest.split_once('/').ok_or_else(bad_token)?;
            page.begun = begun.parse().map_err(|_| bad_token())?;
            page.after = Some((namespace.to_owned(), name.to_owned()));
        }
        Ok(page)
    }

    /// Opaque to clients.
    fn token(revision: u64, last: &Key) -> String {
        format!("{revision}.{}/{}", last.namespace, last.name)
    }

    fn revision(&self, current: u64) -> Result<u64, Status> {
        match self.revision {
            _ if self.after.is_some() && self.begun > 0 => Ok(self.begun),
            Some(asked) if asked > current => Err(Status::too_large_revision(asked, current)),
            Some(asked) if self.exact && asked > 0 => Ok(asked),
            // "At least as new as": the newest is.
            _ => Ok(current),
        }
    }

    fn expired(&self) -> Status {
        Status::expired(
            "The provided continue parameter is too old to display a consistent list result. You can start a new list \
             without the continue parameter.",
        )
    }
}

fn bad_token() -> Status {
    Status::bad_request("continue key is not valid: it is not one that this server gave")
}
