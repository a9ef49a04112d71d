//  Shows one shipped dashboard as Grafana would and tells what it drew: `window.report()`.
//  The address gives ?dashboard=UID&from=MS&to=MS&scrape=SECONDS; the page's server gives the JSON and passes Prometheus on.

import * as React from 'react';
import { createRoot } from 'react-dom/client';
import { MemoryRouter } from 'react-router-dom';
import { createTheme, dateTime, FieldType, LoadingState, ThemeContext } from '@grafana/data';
import { initPluginTranslations } from '@grafana/i18n';
import { config } from '@grafana/runtime';
import {
  ConstantVariable, DataSourceVariable, EmbeddedScene, LocalValueVariable, QueryVariable, SceneDataTransformer, SceneGridItem, SceneGridLayout,
  SceneGridRow, sceneGraph, SceneQueryRunner, SceneTimeRange, SceneVariableSet, VariableValueSelectors, VizPanel,
} from '@grafana/scenes';
import { GlobalStyles, PortalContainer } from '@grafana/ui';

import { Prometheus } from './prometheus';
import { supplyServices } from './services';

const asked = new URLSearchParams(location.search);
const theme = createTheme({ colors: { mode: (asked.get('theme') ?? 'dark') as any } });

function variable(model: any) {
  const common = {
    name: model.name, label: model.label, description: model.description, hide: model.hide, isMulti: model.multi, includeAll: model.includeAll,
    allValue: model.allValue, ...(model.includeAll ? { value: '$__all', text: 'All' } : {}),
  };
  switch (model.type) {
    case 'datasource':
      return new DataSourceVariable({ ...common, pluginId: model.query });
    case 'constant':
      return new ConstantVariable({ ...common, value: model.query });
    case 'query':
      return new QueryVariable({ ...common, datasource: model.datasource, query: model.query, refresh: model.refresh, sort: model.sort, regex: model.regex ?? '' });
    default:
      throw new Error(`variable ${model.name}: this page knows no ${model.type}`);
  }
}

function panel(model: any, at: any, variables?: SceneVariableSet) {
  const runner = new SceneQueryRunner({ queries: model.targets ?? [], datasource: model.datasource, maxDataPointsFromWidth: true });
  const viz = new VizPanel({
    key: `panel-${model.id}`, pluginId: model.type, title: model.title, description: model.description, options: model.options ?? {},
    fieldConfig: model.fieldConfig ?? { defaults: {}, overrides: [] }, displayMode: model.transparent ? 'transparent' : 'default',
    $variables: variables,
    $data: model.targets?.length ? (model.transformations?.length ? new SceneDataTransformer({ $data: runner, transformations: model.transformations }) : runner) : undefined,
  });
  return new SceneGridItem({ ...at, body: viz, isDraggable: false, isResizable: false });
}

//  A panel that repeats is drawn once a value, at most `maxPerRow` beside each other, as Grafana lays them out.
async function repeated(model: any, prometheus: Prometheus, dashboard: any, range: any, y: number) {
  const source = dashboard.templating.list.find((entry: any) => entry.name === model.repeat);
  const filters = Object.fromEntries(dashboard.templating.list.map((entry: any) => [entry.name, entry.allValue ?? '.+']));
  const query = source.query.query.replace(/\$(\w+)/g, (_: string, name: string) => filters[name]);
  const all = await prometheus.labelValues(query, range);
  const width = 24 / Math.min(model.maxPerRow, all.length);
  return all.map((value, index) => panel(
    { ...model, id: `${model.id}-${value}` },
    { x: (index % model.maxPerRow) * width, y: y + Math.floor(index / model.maxPerRow) * model.gridPos.h, width, height: model.gridPos.h },
    new SceneVariableSet({ variables: [new LocalValueVariable({ name: model.repeat, value, text: value, isMulti: true, includeAll: true } as any)] }),
  ));
}

async function build() {
  const dashboard = await (await fetch(`/dashboards/${asked.get('dashboard')}.json`)).json();
  const [from, to] = ['from', 'to'].map((name) => dateTime(Number(asked.get(name))));
  const range = { from, to, raw: { from, to } };
  const prometheus = new Prometheus('/prometheus', Number(asked.get('scrape')));
  supplyServices(prometheus);

  const rows: SceneGridRow[] = [];
  let shift = 0;
  for (const model of dashboard.panels) {
    const { x, y, w, h } = model.gridPos;
    if (model.type === 'row') {
      rows.push(new SceneGridRow({ key: `row-${model.id}`, x: 0, y: y + shift, title: model.title, isCollapsed: false, children: [] }));
      continue;
    }
    const items = model.repeat
      ? await repeated(model, prometheus, dashboard, range, y + shift)
      : [panel(model, { x, y: y + shift, width: w, height: h })];
    const row = rows[rows.length - 1];
    row.setState({ children: [...row.state.children, ...items] });
    if (model.repeat) {
      shift += (Math.ceil(items.length / model.maxPerRow) - 1) * h;
    }
  }
  const scene = new EmbeddedScene({
    $timeRange: new SceneTimeRange({ from: from.toISOString(), to: to.toISOString(), timeZone: 'utc' }),
    $variables: new SceneVariableSet({ variables: dashboard.templating.list.map(variable) }),
    controls: [new VariableValueSelectors({})],
    body: new SceneGridLayout({ children: rows, isLazy: false } as any),
  });
  (window as any).report = () => sceneGraph.findAllObjects(scene, (object) => object instanceof VizPanel).map((found) => {
    const viz = found as VizPanel;
    const data = viz.state.$data ? sceneGraph.getData(viz).state.data : { state: LoadingState.Done, series: [], errors: [] };
    const all = (data?.series ?? []).flatMap((frame) => frame.fields.filter((field) => field.type === FieldType.number)
      .flatMap((field) => Array.from(field.values))).filter((value) => Number.isFinite(value));
    return {
      key: viz.state.key, title: sceneGraph.interpolate(viz, viz.state.title), type: viz.state.pluginId, state: data?.state,
      errors: (data?.errors ?? []).map((error: any) => error.message), numbers: all.length, positive: all.filter((value) => value > 0).length, error: (viz.state as any)._pluginLoadError,
    };
  });
  return { scene, dashboard, range };
}

function Page({ scene, dashboard, range }: any) {
  return (
    <div className="page">
      <header>
        <h1>{dashboard.title}</h1>
        <span>{range.from.utc().format('YYYY-MM-DD HH:mm')} to {range.to.utc().format('YYYY-MM-DD HH:mm')} UTC</span>
      </header>
      <scene.Component model={scene} />
    </div>
  );
}

async function main() {
  (config as any).theme2 = theme;
  (window as any).__grafana_public_path__ = '/public/';
  await initPluginTranslations('keytally-pictures');
  const built = await build();
  document.body.style.background = theme.colors.background.canvas;
  createRoot(document.getElementById('root')!).render(
    <ThemeContext.Provider value={theme}>
      <GlobalStyles />
      <MemoryRouter>
        <Page {...built} />
      </MemoryRouter>
      <PortalContainer />
    </ThemeContext.Provider>,
  );
}

main().catch((error) => { (window as any).failure = String(error.stack ?? error); });
