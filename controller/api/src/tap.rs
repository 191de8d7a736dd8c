//! Which requests a tap selects: the same in proxies and in the controller.

use crate::v1::{TapEvent, TapFilter, Workload};

impl TapFilter {
    /// Whether it selects this request. Workloads are compared as the event has them.
    pub fn selects(&self, event: &TapEvent) -> bool {
        let (source, destination) = (event.source.as_ref(), event.destination.as_ref());
        (selects(self.workload.as_ref(), source) || selects(self.workload.as_ref(), destination))
            && selects(self.to.as_ref(), destination)
            && selects(self.from.as_ref(), source)
            && self.selects_request(event)
    }

    /// Whether it selects this request, whoever sends and receives it.
    pub fn selects_request(&self, event: &TapEvent) -> bool {
        let last_status = if self.status_max == 0 {
            u32::MAX
        } else {
            self.status_max
        };
        (self.method.is_empty() || self.method.eq_ignore_ascii_case(&event.method))
            && event.path.starts_with(&self.path_prefix)
            && is_authority(&self.authority, &event.authority)
            && (self.status_min..=last_status).contains(&event.status)
    }
}

/// What is empty in `wanted` matches everything.
fn selects(wanted: Option<&Workload>, workload: Option<&Workload>) -> bool {
    let Some(wanted) = wanted.filter(|wanted| **wanted != Workload::default()) else {
        return true;
    };
    let is = |wanted: &str, actual: &str| wanted.is_empty() || wanted == actual;
    workload.is_some_and(|workload| {
        is(&wanted.namespace, &workload.namespace)
            && is(&wanted.kind, &workload.kind)
            && is(&wanted.name, &workload.name)
    })
}

/// Without a port, `wanted` matches the host on any port.
fn is_authority(wanted: &str, authority: &str) -> bool {
    let port = |rest: &str| {
        rest.is_empty()
            || rest
                .strip_prefix(':')
                .is_some_and(|port| port.bytes().all(|b| b.is_ascii_digit()))
    };
    let (length, same) = (wanted.len(), |head: &str| head.eq_ignore_ascii_case(wanted));
    wanted.is_empty() || authority.get(..length).is_some_and(same) && port(&authority[length..])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workload(text: &str) -> Option<Workload> {
        let mut parts = text.split('/').map(str::to_owned);
        let mut next = || parts.next().unwrap_or_default();
        Some(Workload {
            namespace: next(),
            kind: next(),
            name: next(),
        })
    }

    fn event() -> TapEvent {
        TapEvent {
            source: workload("shop/deployment/web"),
            destination: workload("shop/deployment/cart"),
            method: "GET".into(),
            authority: "cart.shop:80".into(),
            path: "/items/7".into(),
            status: 503,
            ..TapEvent::default()
        }
    }

    #[test]
    fn filters() {
        let all = TapFilter::default;
        let matching = [
            all(),
            TapFilter {
                workload: workload("shop/deployment/web"),
                ..all()
            },
            TapFilter {
                workload: workload("shop/deployment/cart"),
                ..all()
            },
            TapFilter {
                workload: workload("shop"),
                ..all()
            },
            TapFilter {
                workload: workload(""),
                ..all()
            },
            TapFilter {
                to: workload("shop//cart"),
                from: workload("shop/deployment"),
                ..all()
            },
            TapFilter {
                method: "get".into(),
                path_prefix: "/items".into(),
                ..all()
            },
            TapFilter {
                authority: "Cart.shop".into(),
                ..all()
            },
            TapFilter {
                authority: "cart.shop:80".into(),
                ..all()
            },
            TapFilter {
                status_min: 500,
                status_max: 599,
                ..all()
            },
            TapFilter {
                status_min: 500,
                ..all()
            },
        ];
        for filter in matching {
            assert!(filter.selects(&event()), "{filter:?}");
        }
        let others = [
            TapFilter {
                workload: workload("shop/deployment/pay"),
                ..all()
            },
            TapFilter {
                to: workload("shop/deployment/web"),
                ..all()
            },
            TapFilter {
                from: workload("shop/deployment/cart"),
                ..all()
            },
            TapFilter {
                from: workload("shop/statefulset/web"),
                ..all()
            },
            TapFilter {
                method: "POST".into(),
                ..all()
            },
            TapFilter {
                path_prefix: "/cart".into(),
                ..all()
            },
            TapFilter {
                authority: "cart".into(),
                ..all()
            },
            TapFilter {
                authority: "cart.shop:8".into(),
                ..all()
            },
            TapFilter {
                status_min: 200,
                status_max: 502,
                ..all()
            },
        ];
        for filter in others {
            assert!(!filter.selects(&event()), "{filter:?}");
        }
        let unknown = TapEvent {
            source: None,
            ..event()
        };
        let from_shop = TapFilter {
            from: workload("shop"),
            ..all()
        };
        assert!(!from_shop.selects(&unknown));
    }
}
