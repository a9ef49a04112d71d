//! `deploy/kubernetes` and `deploy/helm`: rendered by kubectl and helm, checked against Kubernetes' schemas, and held against
//! the sidecar: its configuration is checked by the sidecar itself, its times and addresses are compared.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use super::{check, demo_config, documents, find, image_name, read, repository, run};
use crate::support::{skip, tool};

struct Tools {
    kubectl: PathBuf,
    helm: PathBuf,
    validate: PathBuf,
}

fn tools() -> Option<Tools> {
    Some(Tools {
        kubectl: tool("venv/bin/kubectl")?,
        helm: tool("helm")?,
        validate: tool("venv/bin/kubernetes-validate")?,
    })
}

impl Tools {
    /// `kubectl kustomize`, validated.
    #[track_caller]
    fn kustomize(&self, folder: &str) -> Vec<Value> {
        self.valid(&run(Command::new(&self.kubectl).arg("kustomize").arg(repository(folder))))
    }

    /// `kubectl kustomize` of a user's file, in a folder beside this repository.
    #[track_caller]
    fn kustomize_beside(&self, kustomization: &str) -> Vec<Value> {
        let folder = tempfile::tempdir().expect("temporary directory");
        let (shop, ours) = (folder.path().join("shop"), folder.path().join("keytally/deploy"));
        std::fs::create_dir_all(&shop).expect("made");
        std::fs::create_dir_all(&ours).expect("made");
        run(Command::new("cp").arg("-r").arg(repository("deploy/kubernetes")).arg(&ours));
        std::fs::write(shop.join("kustomization.yaml"), kustomization).expect("written");
        self.valid(&run(Command::new(&self.kubectl).arg("kustomize").arg(&shop)))
    }

    /// `helm template` of a chart in `charts`, validated.
    #[track_caller]
    fn template(&self, charts: &Path, chart: &str, flags: &[&str]) -> Vec<Value> {
        self.valid(&run(Command::new(&self.helm).args(["template", "shop", chart]).args(flags).current_dir(charts)))
    }

    #[track_caller]
    fn valid(&self, rendered: &str) -> Vec<Value> {
        let file = tempfile::NamedTempFile::with_suffix(".yaml").expect("temporary file");
        std::fs::write(file.path(), rendered).expect("written");
        run(Command::new(&self.validate).arg("--strict").arg(file.path()));
        documents(rendered)
    }
}

/// The charts, in a folder where helm may write, with the dependency of the example in place.
fn charts(tools: &Tools) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("temporary directory");
    run(Command::new("cp").args(["-rL"]).arg(repository("deploy/helm/keytally")).arg(folder.path()));
    run(Command::new("cp").args(["-rL"]).arg(repository("deploy/helm/example")).arg(folder.path()));
    run(Command::new(&tools.helm).args(["dependency", "build", "example"]).current_dir(folder.path()));
    folder
}

/// The pod of a Deployment, and its sidecar.
#[track_caller]
fn pod(deployment: &Value) -> (&Value, &Value) {
    let pod = &deployment["spec"]["template"]["spec"];
    let containers = pod["initContainers"].as_array().expect("initContainers");
    let sidecar = containers.iter().find(|container| container["name"] == "keytally").expect("the sidecar");
    (pod, sidecar)
}

/// What every pod with a sidecar must have, however it was made.
#[track_caller]
fn assert_sidecar(documents: &[Value], deployment: &str) {
    let deployment = find(documents, "Deployment", deployment);
    let (pod, sidecar) = pod(deployment);
    assert_eq!(sidecar["restartPolicy"], "Always", "a native sidecar");
    assert_eq!(sidecar["image"], image_name());
    assert_eq!(sidecar["args"], json!(["serve"]));
    let security = &sidecar["securityContext"];
    assert_eq!(security["runAsNonRoot"], true);
    assert_eq!(security["readOnlyRootFilesystem"], true);
    assert_eq!(security["allowPrivilegeEscalation"], false);
    assert_eq!(security["capabilities"]["drop"], json!(["ALL"]));
    assert_eq!(security["seccompProfile"]["type"], "RuntimeDefault");
    assert_eq!(sidecar["startupProbe"]["httpGet"]["path"], "/readyz");
    assert_eq!(sidecar["livenessProbe"]["httpGet"]["path"], "/livez");

    let config = find(documents, "ConfigMap", config_map(pod))["data"]["keytally.yaml"].as_str().expect("the file");
    check(config);
    let config = &super::documents(config)[0];
    let seconds = |name: &str| {
        let text = config["shutdown"][name].as_str().expect(name);
        text.strip_suffix('s').and_then(|text| text.parse::<u64>().ok()).expect("seconds")
    };
    let grace = pod["terminationGracePeriodSeconds"].as_u64().expect("it is set");
    assert!(grace > 30 + seconds("drain") + seconds("linger"), "{grace} s is too short");

    let env = sidecar["env"].as_array().expect("env");
    let value = |name: &str| env.iter().find(|entry| entry["name"] == name).unwrap_or_else(|| panic!("no {name}"));
    assert_eq!(value("KEYTALLY_CONFIG")["value"], "/etc/keytally/keytally.yaml");
    let mount = sidecar["volumeMounts"].as_array().expect("mounts").iter().find(|mount| mount["name"] == "keytally");
    let mount = mount.expect("the configuration is mounted");
    assert_eq!(mount["mountPath"], "/etc/keytally");
    assert!(mount.get("subPath").is_none(), "a subPath never changes");
    assert_ledger(pod, sidecar);
    let attributes = value("OTEL_RESOURCE_ATTRIBUTES")["value"].as_str().expect("text");
    for name in ["k8s.namespace.name", "k8s.pod.name", "k8s.pod.uid", "k8s.node.name"] {
        assert!(attributes.contains(&format!("{name}=$(")), "{attributes}");
    }
    // Variables refer to earlier ones only.
    let position = |name: &str| env.iter().position(|entry| entry["name"] == name).expect(name);
    for name in ["K8S_NAMESPACE", "K8S_POD", "K8S_POD_UID", "K8S_NODE"] {
        assert!(position(name) < position("OTEL_RESOURCE_ATTRIBUTES"));
        assert!(attributes.contains(&format!("$({name})")));
    }
    assert_scraped(documents, deployment, sidecar);
}

/// The README's ledger can be written: nothing else can on a read-only root. And the pod is not evicted when it is full.
#[track_caller]
fn assert_ledger(pod: &Value, sidecar: &Value) {
    assert!(read("README.md").contains("ledger: { path: /var/lib/keytally/ledger.db }"));
    let mounts = sidecar["volumeMounts"].as_array().expect("mounts");
    let at = |path: &str| mounts.iter().position(|mount| mount["mountPath"] == path);
    let mount = at("/var/lib/keytally").unwrap_or_else(|| panic!("a ledger has no place: {mounts:?}"));
    assert_eq!(mounts[mount].get("readOnly"), None);
    // What lies below is mounted after it, whatever the runtime sorts.
    assert!(at("/var/lib/keytally/ca").is_none_or(|below| mount < below), "{mounts:?}");
    let volumes = pod["volumes"].as_array().expect("volumes");
    let volume = volumes.iter().find(|volume| volume["name"] == mounts[mount]["name"]).expect("the volume");
    assert_eq!(volume["emptyDir"]["sizeLimit"], "2Gi", "{volume}");
    assert!(
        read("docs/configuration.md").contains("| `ledger.max_size` | size | `1GiB` |"),
        "the limit must be above it"
    );
}

/// Name of the ConfigMap that the volume `keytally` of a pod is made of.
fn config_map(pod: &Value) -> &str {
    let volumes = pod["volumes"].as_array().expect("volumes");
    let volume = volumes.iter().find(|volume| volume["name"] == "keytally").expect("the volume");
    volume["configMap"]["name"].as_str().expect("a ConfigMap")
}

/// Policy and monitor, where there are some, select the pod and its port.
fn assert_scraped(documents: &[Value], deployment: &Value, sidecar: &Value) {
    let labels = deployment["spec"]["template"]["metadata"]["labels"].as_object().expect("labels");
    let selects = |selector: &Value| {
        let wanted = selector["matchLabels"].as_object().expect("matchLabels");
        wanted.iter().all(|(name, value)| labels.get(name) == Some(value))
    };
    let port = &sidecar["ports"][0];
    assert_eq!(port["containerPort"], 4140);
    let policy = find(documents, "NetworkPolicy", "");
    assert!(selects(&policy["spec"]["podSelector"]));
    let open = |port: u64| {
        let rules = policy["spec"]["ingress"].as_array().expect("ingress");
        rules
            .iter()
            .filter(|rule| rule.get("from").is_none())
            .flat_map(|rule| rule["ports"].as_array().expect("ports"))
            .any(|range| {
                let first = range["port"].as_u64().expect("a port");
                range["protocol"] == "TCP" && (first..=range["endPort"].as_u64().unwrap_or(first)).contains(&port)
            })
    };
    assert!(!open(4140) && !open(4141) && !open(4142), "the sidecar's ports are open to everybody");
    assert!(open(80) && open(4139) && open(4143) && open(65535), "the application's ports must stay as they were");
    for monitor in documents.iter().filter(|document| document["kind"] == "PodMonitor") {
        assert!(selects(&monitor["spec"]["selector"]));
        assert_eq!(monitor["spec"]["podMetricsEndpoints"][0]["port"], port["name"]);
    }
}

/// The variables of `keytally run` with a value of their own, by name: what follows `$URL`.
fn base_urls() -> Vec<(String, String)> {
    let help = run(Command::new(env!("CARGO_BIN_EXE_keytally")).args(["run", "--help"]));
    let rows = help.lines().filter_map(|line| {
        let mut words = line.split_ascii_whitespace();
        let (name, url) = (words.next()?, words.next()?.strip_prefix("$URL")?);
        Some((name.to_owned(), url.to_owned()))
    });
    rows.collect()
}

#[test]
fn the_component_adds_a_sidecar() {
    let Some(tools) = tools() else { return skip("kubectl, helm or kubernetes-validate") };
    let rendered = tools.kustomize("deploy/kubernetes/example");
    assert_sidecar(&rendered, "app");
    let config = find(&rendered, "ConfigMap", "keytally")["data"]["keytally.yaml"].as_str().expect("the file");
    assert!(config.contains(&demo_config()), "keep what `keytally demo --print-config` prints in it");

    let monitors = documents(&read("deploy/kubernetes/monitoring/podmonitor.yaml"));
    let all: Vec<Value> = rendered.iter().cloned().chain(monitors).collect();
    assert_scraped(&all, find(&all, "Deployment", "app"), pod(find(&all, "Deployment", "app")).1);

    let known = base_urls();
    assert!(known.len() > 10, "{known:?}");
    let env = rendered.iter().find(|document| document["metadata"]["name"].to_string().contains("keytally-env-"));
    let env = env.expect("the variables")["data"].as_object().expect("data");
    for (name, url) in env {
        let path = url.as_str().and_then(|url| url.strip_prefix("http://127.0.0.1:4141")).expect("the proxy port");
        assert!(known.contains(&(name.clone(), path.to_owned())), "{name}={path} is not what `keytally run` sets");
    }
    let app = &find(&rendered, "Deployment", "app")["spec"]["template"]["spec"]["containers"][0];
    let from = app["envFrom"][0]["configMapRef"]["name"].as_str().expect("envFrom");
    assert!(from.starts_with("keytally-env-"), "{from}");

    // With the claim of the documentation in the place of the volume.
    let guide = read("docs/deploy.md");
    let example = "resources: [../keytally/deploy/kubernetes/example]\n";
    let kept = tools.kustomize_beside(&format!("{example}{}", shown(&guide, "persistentVolumeClaim:")));
    let (pod, sidecar) = pod(find(&kept, "Deployment", "app"));
    assert_eq!(pod["securityContext"]["fsGroup"], sidecar["securityContext"]["runAsUser"], "or it may not write");
    let volume = pod["volumes"].as_array().expect("volumes").iter().find(|one| one["name"] == "keytally-state");
    assert_eq!(
        volume.expect("it"),
        &json!({ "name": "keytally-state", "persistentVolumeClaim": { "claimName": "keytally" } })
    );
}

#[test]
fn the_chart_renders_its_demo_and_refuses_wrong_values() {
    let Some(tools) = tools() else { return skip("kubectl, helm or kubernetes-validate") };
    let charts = charts(&tools);
    run(Command::new(&tools.helm).args(["lint", "--strict", "keytally", "example"]).current_dir(charts.path()));
    let on = ["--set", "demo.enabled=true,podMonitor.enabled=true,prometheusRule.enabled=true"];
    let rendered = tools.template(charts.path(), "keytally", &on);
    assert_sidecar(&rendered, "shop-keytally-demo");
    let config = find(&rendered, "ConfigMap", "shop-keytally")["data"]["keytally.yaml"].as_str().expect("the file");
    assert!(config.contains(demo_config().trim_end()), "deploy/helm/keytally/demo.yaml must be the demo's");
    assert!(rendered.iter().any(|document| document["kind"] == "PodMonitor"));
    let rules = documents(&read("deploy/kubernetes/monitoring/prometheus-rule.yaml"));
    assert_eq!(find(&rendered, "PrometheusRule", "")["spec"], rules[0]["spec"], "the rules come through unchanged");

    for wrong in
        ["image.pullpolicy=Never", "terminationGracePeriodSeconds=5", "admin=localhost", "podMonitor.interval=often"]
    {
        let refused = Command::new(&tools.helm)
            .args(["template", "shop", "keytally", "--set", wrong])
            .current_dir(charts.path())
            .output()
            .expect("helm runs");
        assert!(!refused.status.success(), "{wrong} must be refused");
    }
    let chart = read("deploy/helm/keytally/Chart.yaml");
    let version = env!("CARGO_PKG_VERSION");
    assert!(chart.contains(&format!("\nversion: {version}\nappVersion: {version}\n")));
    assert!(read("deploy/helm/keytally/templates/_sidecar.tpl").contains(&format!("-}}}}{version}{{{{-")));
}

/// The YAML of a document that has this in it.
#[track_caller]
fn shown<'a>(document: &'a str, what: &str) -> &'a str {
    let mut blocks = document.split("```").filter_map(|block| block.strip_prefix("yaml\n"));
    blocks.find(|block| block.contains(what)).unwrap_or_else(|| panic!("no YAML with {what:?}"))
}

/// The notes that an installation of the chart ends with.
#[track_caller]
fn notes(tools: &Tools, charts: &Path, flags: &[&str]) -> String {
    let mut helm = Command::new(&tools.helm);
    let said = run(helm.args(["install", "shop", "keytally", "--dry-run=client"]).args(flags).current_dir(charts));
    said.split_once("NOTES:").expect("notes").1.to_owned()
}

/// A Prometheus of kube-prometheus-stack takes what has the label, and is silent about what has not.
#[test]
fn what_the_operator_selects_by_is_told_and_comes_through() {
    let Some(tools) = tools() else { return skip("kubectl, helm or kubernetes-validate") };
    let charts = charts(&tools);
    let said = notes(&tools, charts.path(), &[]);
    let lines = said.lines().map(str::trim).filter(|line| line.starts_with("--set"));
    let flags: Vec<&str> = lines.flat_map(|line| line.split(' ')).collect();
    let rendered = tools.template(charts.path(), "keytally", &flags);
    for kind in ["PodMonitor", "PrometheusRule"] {
        let labels = &find(&rendered, kind, "")["metadata"]["labels"];
        assert_eq!(labels["release"], "kube-prometheus-stack", "{kind}, with what the notes say: {flags:?}");
    }
    assert!(!notes(&tools, charts.path(), &flags).contains("--set podMonitor"), "nothing is left to be said");
    let half = ["--set", "podMonitor.enabled=true,prometheusRule.enabled=true"];
    assert!(notes(&tools, charts.path(), &half).contains("--set podMonitor.labels"), "without labels it is silent");

    let guide = read("docs/deploy.md");
    let rendered = tools.kustomize_beside(shown(&guide, "\nlabels:"));
    assert_eq!(find(&rendered, "PodMonitor", "")["metadata"]["labels"]["release"], "kube-prometheus-stack");
    let command = guide.lines().find(|line| line.starts_with("kubectl label")).expect("how the rules are labelled");
    let words: Vec<&str> = command.split(" | ").next().expect("a command").split(' ').skip(1).collect();
    let rules = documents(&run(Command::new(&tools.kubectl).args(words).current_dir(repository(""))));
    assert_eq!(find(&rules, "PrometheusRule", "")["metadata"]["labels"]["release"], "kube-prometheus-stack");
}

/// Every link of the rules leads to the runbook of those who read it: by the chart's value, or by the documentation's line.
#[test]
fn the_runbook_may_lie_elsewhere() {
    let Some(tools) = tools() else { return skip("kubectl, helm or kubernetes-validate") };
    let theirs = |rules: &Value| {
        let text = rules.to_string();
        let mut links = text.split("\"runbook_url\":\"").skip(1).peekable();
        assert!(links.peek().is_some(), "no links");
        links
            .for_each(|link| assert!(link.starts_with("https://wiki.example/keytally-runbook#keytally"), "{link:.99}"));
    };
    let charts = charts(&tools);
    let set = "prometheusRule.enabled=true,prometheusRule.runbookUrl=https://wiki.example/keytally-runbook";
    theirs(find(&tools.template(charts.path(), "keytally", &["--set", set]), "PrometheusRule", ""));

    let guide = read("docs/alerting.md");
    let line = guide.lines().find(|line| line.starts_with("sed -i")).expect("the line");
    let copy = tempfile::tempdir().expect("temporary directory");
    run(Command::new("cp").arg("-r").args(["deploy", "dashboards"].map(repository)).arg(copy.path()));
    run(Command::new("sh").args(["-c", line]).current_dir(copy.path()));
    let rules = std::fs::read_to_string(copy.path().join("deploy/kubernetes/monitoring/prometheus-rule.yaml"));
    theirs(&documents(&rules.expect("it is there"))[0]);
    let left = Command::new("grep")
        .args(["-rl", "keytally/keytally/blob", "deploy/prometheus", "deploy/grafana", "dashboards"])
        .args(["--include=*.yml", "--include=*.json"])
        .current_dir(copy.path())
        .output();
    assert_eq!(String::from_utf8_lossy(&left.expect("grep runs").stdout), "", "these still lead to the project's page");
}

#[test]
fn a_chart_of_an_application_takes_its_sidecar_from_ours() {
    let Some(tools) = tools() else { return skip("kubectl, helm or kubernetes-validate") };
    let charts = charts(&tools);
    let rendered = tools.template(charts.path(), "example", &[]);
    assert_sidecar(&rendered, "shop");
    let (pod, _) = pod(find(&rendered, "Deployment", "shop"));
    let claim = "keytally.storage.volume.persistentVolumeClaim.claimName=rows";
    let kept = tools.template(charts.path(), "example", &["--set", claim]);
    let volumes = find(&kept, "Deployment", "shop")["spec"]["template"]["spec"]["volumes"].to_string();
    assert!(volumes.contains("\"claimName\":\"rows\"") && !volumes.contains("emptyDir"), "{volumes}");
    let known = base_urls();
    let env = pod["containers"][0]["env"].as_array().expect("env");
    let urls: Vec<_> = env.iter().filter(|entry| entry.get("value").is_some()).collect();
    assert!(urls.len() > 5, "{urls:?}");
    for entry in urls {
        let path = entry["value"].as_str().and_then(|url| url.strip_prefix("http://127.0.0.1:4141")).expect("a URL");
        let name = entry["name"].as_str().expect("a name").to_owned();
        assert!(known.contains(&(name, path.to_owned())), "{entry}");
    }
}

/// What a pod whose connections are redirected must have: the rules and the CA are there before the application, the
/// sidecar's user is nobody else's, and of the CA the application sees the certificates alone.
#[track_caller]
fn assert_transparent(documents: &[Value], deployment: &str) {
    assert_sidecar(documents, deployment);
    let (pod, sidecar) = pod(find(documents, "Deployment", deployment));
    let containers = pod["initContainers"].as_array().expect("initContainers");
    let named = |name: &str| containers.iter().find(|one| one["name"] == name).unwrap_or_else(|| panic!("no {name}"));
    let (redirect, ca) = (named("keytally-redirect"), named("keytally-ca"));
    let user = sidecar["securityContext"]["runAsUser"].as_u64().expect("a user");
    assert_ne!(user, 65532, "distroless applications have that one");
    assert_eq!(redirect["args"], json!(["redirect", "install", "--uid", user.to_string()]));
    assert_eq!(redirect["securityContext"]["capabilities"], json!({ "drop": ["ALL"], "add": ["NET_ADMIN"] }));
    assert_eq!(ca["args"], json!(["ca", "bundle"]));
    assert_eq!(ca["securityContext"]["runAsUser"], user, "who makes the key must be who reads it");

    let config = find(documents, "ConfigMap", config_map(pod))["data"]["keytally.yaml"].as_str().expect("the file");
    let config = &super::documents(config)[0];
    assert_eq!(config["listen"]["redirect"], "127.0.0.1:4142", "where `keytally redirect install` sends connections");
    assert_eq!(config["tls"]["intercept"].as_str().unwrap_or("on"), "on");
    let state = config["tls"]["ca_dir"].as_str().expect("a place for the CA");
    for container in [sidecar, ca] {
        let mounts = container["volumeMounts"].as_array().expect("mounts");
        assert!(mounts.iter().any(|mount| mount["name"] == "keytally-ca" && mount["mountPath"] == state), "{mounts:?}");
    }
    let app = &pod["containers"][0];
    let mounts = app["volumeMounts"].as_array().expect("mounts");
    let mount = mounts.iter().find(|mount| mount["name"] == "keytally-ca").expect("the certificates");
    assert_eq!(mount["subPath"], "bundle.pem", "the name that `keytally ca bundle` gives it; never the directory");
    assert_eq!(mount["readOnly"], true);
}

#[test]
fn a_pod_is_led_through_its_sidecar_without_knowing() {
    let Some(tools) = tools() else { return skip("kubectl, helm or kubernetes-validate") };
    let rendered = tools.kustomize("deploy/kubernetes/example-transparent");
    assert_transparent(&rendered, "app");
    let app = &find(&rendered, "Deployment", "app")["spec"]["template"]["spec"]["containers"][0];
    let from = app["envFrom"][0]["configMapRef"]["name"].as_str().expect("envFrom");
    let trust = find(&rendered, "ConfigMap", from)["data"].as_object().expect("variables");
    assert!(trust.len() >= 5 && trust.values().all(|file| *file == app["volumeMounts"][0]["mountPath"]), "{trust:?}");

    let charts = charts(&tools);
    let rendered = tools.template(charts.path(), "example", &["--set", "keytally.transparent.enabled=true"]);
    assert_transparent(&rendered, "shop");
    let (pod, _) = pod(find(&rendered, "Deployment", "shop"));
    let app = &pod["containers"][0];
    let env = app["env"].as_array().expect("env");
    let files = env.iter().filter(|entry| entry["value"] == app["volumeMounts"][0]["mountPath"]);
    assert_eq!(files.count(), 5, "{env:?}");
    assert!(!env.iter().any(|entry| entry["name"] == "OPENAI_BASE_URL"), "no base URL is needed: {env:?}");
}
