//  A Grafana data source over Prometheus' HTTP API: what Grafana's own plugin does for range and instant queries.
//  In: queries with variables. Out: data frames named and shaped as Grafana's are. Errors are thrown as they come.

import { DataQueryRequest, DataQueryResponse, FieldType, ScopedVars, TimeRange, toDataFrame } from '@grafana/data';
import { RuntimeDataSource, sceneGraph } from '@grafana/scenes';
import { from, Observable } from 'rxjs';

interface Query { refId: string; expr: string; instant?: boolean; format?: string; legendFormat?: string; interval?: string; hide?: boolean }

//  A multi-value variable becomes a group of escaped alternatives, a single one is escaped as a plain value.
function forPromQL(value: any, variable: any): string {
  const escape = (text: string) => String(text).replace(/\\/g, '\\\\\\\\').replace(/[$^*{}[\]'+?.()|]/g, '\\\\$&');
  if (typeof value === 'string') {
    return variable?.multi || variable?.includeAll ? escape(value) : value.replace(/\\/g, '\\\\').replace(/'/g, "\\\\'");
  }
  const all = (value as string[]).map(escape);
  return all.length === 1 ? all[0] : `(${all.join('|')})`;
}

export function interpolate(scene: any, text: string, scopedVars: ScopedVars = {}): string {
  return sceneGraph.interpolate(scene, text, scopedVars, forPromQL as any);
}

export class Prometheus extends RuntimeDataSource {
  constructor(private base: string, private scrapeSeconds: number) {
    super('prometheus', 'prometheus');
    (this as any).name = 'Prometheus';
    (this as any).interval = `${scrapeSeconds}s`;
  }

  query(request: DataQueryRequest<any>): Observable<DataQueryResponse> {
    return from(this.all(request));
  }

  private async all(request: DataQueryRequest<any>): Promise<DataQueryResponse> {
    const queries = (request.targets as Query[]).filter((target) => !target.hide && target.expr);
    const tables = queries.filter((target) => target.format === 'table').length;
    const frames = await Promise.all(queries.map((query) => this.one(query, request, tables)));
    return { data: frames.flat(), key: request.requestId };
  }

  private async one(query: Query, request: DataQueryRequest<any>, tables: number) {
    const seconds = (request.range.to.valueOf() - request.range.from.valueOf()) / 1000;
    const step = Math.max(request.intervalMs / 1000, this.scrapeSeconds);
    const scene = (request.scopedVars as any)?.__sceneObject?.value?.valueOf();
    const windows: ScopedVars = {
      ...request.scopedVars,
      __rate_interval: { text: '', value: `${Math.max(step + this.scrapeSeconds, 4 * this.scrapeSeconds)}s` },
      __interval: { text: '', value: `${step}s` },
      __range: { text: '', value: `${Math.round(seconds)}s` },
    };
    const expr = interpolate(scene, query.expr, windows);
    const end = request.range.to.valueOf() / 1000;
    if (query.instant) {
      const data = await this.get('query', { query: expr, time: `${end}` });
      return [this.table(query, data.result, end, tables > 1)];
    }
    const align = (at: number) => Math.floor(at / step) * step;
    const data = await this.get('query_range', {
      query: expr, start: `${align(end - seconds)}`, end: `${align(end)}`, step: `${step}`,
    });
    return data.result.map((series: any) => this.frame(query, series));
  }

  private frame(query: Query, series: any) {
    const labels = { ...series.metric };
    const shown = (query.legendFormat ?? '').replace(/\{\{\s*(.+?)\s*\}\}/g, (_, name) => labels[name] ?? '');
    delete labels.__name__;
    return toDataFrame({
      refId: query.refId,
      name: shown,
      meta: { type: 'timeseries-multi', executedQueryString: query.expr },
      fields: [
        { name: 'Time', type: FieldType.time, values: series.values.map(([at]: any) => at * 1000), config: {} },
        { name: 'Value', type: FieldType.number, labels, values: series.values.map(([, value]: any) => Number(value)), config: { displayNameFromDS: shown } },
      ],
    });
  }

  private table(query: Query, result: any[], end: number, several: boolean) {
    const names = [...new Set(result.flatMap((sample) => Object.keys(sample.metric)))].sort();
    if (several && names.includes('__name__')) {
      throw new Error(`rows of a table with several queries meet by their labels; aggregate the metric's name away: ${query.expr}`);
    }
    const value = several ? `Value #${query.refId}` : 'Value';
    if (!result.length) {
      return toDataFrame({ refId: query.refId, fields: [] });
    }
    return toDataFrame({
      refId: query.refId,
      meta: { preferredVisualisationType: 'rawPrometheus' },
      fields: [
        { name: 'Time', type: FieldType.time, values: result.map(() => end * 1000), config: {} },
        ...names.map((name) => ({ name, type: FieldType.string, values: result.map((sample) => sample.metric[name] ?? ''), config: { filterable: true } })),
        { name: value, type: FieldType.number, values: result.map((sample) => Number(sample.value[1])), config: {} },
      ],
    });
  }

  //  Values of a variable: label_values(metric{…}, label).
  async metricFindQuery(query: any, options: any) {
    const text = typeof query === 'string' ? query : query.query;
    return (await this.labelValues(interpolate(options?.scopedVars?.__sceneObject?.value?.valueOf(), text, options?.scopedVars), options?.range))
      .map((value: string) => ({ text: value, value }));
  }

  async labelValues(text: string, range?: TimeRange): Promise<string[]> {
    const parts = /^label_values\((.+),\s*(\w+)\)$/.exec(text);
    if (!parts) {
      throw new Error(`not label_values(…): ${text}`);
    }
    const params: Record<string, string> = { 'match[]': parts[1] };
    if (range) {
      params.start = `${range.from.valueOf() / 1000}`;
      params.end = `${range.to.valueOf() / 1000}`;
    }
    return this.get(`label/${parts[2]}/values`, params);
  }

  private async get(path: string, params: Record<string, string>): Promise<any> {
    const answer = await fetch(`${this.base}/api/v1/${path}?${new URLSearchParams(params)}`);
    const body = await answer.json();
    if (body.status !== 'success') {
      throw new Error(`${body.error} in ${params.query ?? params['match[]']}`);
    }
    return body.data;
  }
}
