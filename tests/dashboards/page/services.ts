//  What Grafana's server and core give to its libraries: data sources, query runner, template service, registries.

import {
  dataLinksOverrideProcessor, displayNameOverrideProcessor, EventBusSrv, FieldConfigPropertyItem, FieldType, identityOverrideProcessor, LoadingState,
  numberOverrideProcessor, PanelData, standardEditorsRegistry, standardFieldConfigEditorRegistry, standardTransformers,
  standardTransformersRegistry, stringOverrideProcessor, thresholdsOverrideProcessor, unitOverrideProcessor, valueMappingsOverrideProcessor,
} from '@grafana/data';
import { setAppEvents, setDataSourceSrv, setPluginImportUtils, setRunRequest, setTemplateSrv } from '@grafana/runtime';
import { sceneGraph } from '@grafana/scenes';
import { catchError, from, map, of, startWith } from 'rxjs';

import { plugins } from './panels';
import { Prometheus } from './prometheus';

const NONE = () => null;

//  The options that every panel has, as the core registers them; without editors, which no picture needs.
function standardOptions(): FieldConfigPropertyItem[] {
  const item = (id: string, process: any, more: any = {}) => ({
    id, path: id, name: id, editor: NONE, override: NONE, process, shouldApply: () => true, ...more,
  });
  const numbers = { shouldApply: (field: any) => field.type === FieldType.number };
  return [
    item('unit', unitOverrideProcessor), item('min', numberOverrideProcessor, numbers), item('max', numberOverrideProcessor, numbers),
    item('fieldMinMax', identityOverrideProcessor), item('decimals', numberOverrideProcessor, numbers),
    item('displayName', displayNameOverrideProcessor), item('noValue', stringOverrideProcessor),
    item('color', identityOverrideProcessor), item('thresholds', thresholdsOverrideProcessor, {
      defaultValue: { mode: 'absolute', steps: [{ value: -Infinity, color: 'green' }, { value: 80, color: 'red' }] } }),
    item('mappings', valueMappingsOverrideProcessor, { defaultValue: [] }), item('links', dataLinksOverrideProcessor),
    item('description', stringOverrideProcessor), item('actions', identityOverrideProcessor), item('filterable', identityOverrideProcessor),
  ] as any;
}

export function supplyServices(prometheus: Prometheus) {
  setAppEvents(new EventBusSrv());
  standardEditorsRegistry.setInit(() => []);
  standardFieldConfigEditorRegistry.setInit(standardOptions);
  standardTransformersRegistry.setInit(() =>
    [...new Map(Object.values(standardTransformers).map((one: any) => [one.id, one])).values()].map((transformation: any) => ({
      id: transformation.id, name: transformation.name, transformation: async () => transformation, editor: NONE, imageDark: '', imageLight: '',
    })) as any);

  const settings = (type: string, name: string) => ({
    id: 1, uid: type, type, name, url: '', access: 'proxy', readOnly: false, jsonData: {}, isDefault: type === 'prometheus',
    meta: { id: type, name, type: 'datasource', metrics: type === 'prometheus', tracing: type === 'tempo', info: { logos: {} } },
  });
  const sources = [settings('prometheus', 'Prometheus'), settings('tempo', 'Tempo')];
  setDataSourceSrv({
    get: async () => prometheus as any,
    getList: (filters: any = {}) => sources.filter((source) => !filters.pluginId || source.type === filters.pluginId) as any,
    getInstanceSettings: (ref: any) => sources.find((source) => source.uid === (ref?.uid ?? ref)) ?? (sources[0] as any),
    reload: () => undefined, registerRuntimeDataSource: () => undefined,
  } as any);
  setRunRequest(((source: any, request: any) => {
    const started = { state: LoadingState.Loading, series: [], timeRange: request.range, request } as PanelData;
    return from(source.query(request)).pipe(
      map((answer: any) => ({ state: LoadingState.Done, series: answer.data, timeRange: request.range, request }) as PanelData),
      catchError((error) => of({ state: LoadingState.Error, series: [], timeRange: request.range, request, errors: [{ message: error.message }] } as any)),
      startWith(started),
    );
  }) as any);
  setPluginImportUtils({
    importPanelPlugin: async (id) => plugins[id], getPanelPluginFromCache: (id) => plugins[id],
  });
  setTemplateSrv({
    getVariables: () => [], containsTemplate: () => false, updateTimeRange: () => undefined,
    replace: (text: any, vars: any) => (text && vars?.__sceneObject ? sceneGraph.interpolate(vars.__sceneObject.value.valueOf(), text, vars) : text),
  } as any);
}
