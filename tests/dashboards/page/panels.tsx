//  The panels: Grafana's own components for graphs, numbers, bars and tables, each behind the thin adapter that Grafana's panel
//  plugins (which are not published) put before them. Options and field options come from the shipped JSON.

import * as React from 'react';
import {
  cacheFieldDisplayNames, FieldConfigProperty, FieldType, getFieldDisplayValues, identityOverrideProcessor, PanelPlugin, PanelProps, renderMarkdown,
} from '@grafana/data';
import { BarGauge, BigValue, TimeSeries, useTheme2, VizRepeater } from '@grafana/ui';
import { TableNG } from '@grafana/ui/unstable';

//  Field options of a panel, with the defaults of Grafana's plugin of that name.
function custom(defaults: Record<string, unknown>) {
  return {
    useCustomConfig: (builder: any) => {
      for (const [path, defaultValue] of Object.entries(defaults)) {
        builder.addCustomEditor({
          id: path, path, name: path, defaultValue, editor: () => null, override: () => null,
          process: identityOverrideProcessor, shouldApply: () => true,
        });
      }
    },
  };
}

function NoData({ fieldConfig }: { fieldConfig: any }) {
  return <div className="no-data" data-no-data>{fieldConfig.defaults.noValue ?? 'No data'}</div>;
}

function Graph({ data, timeRange, timeZone, width, height, options, fieldConfig, id }: PanelProps<any>) {
  const frames = data.series.filter((frame) => frame.length > 0);
  if (!frames.length) {
    return <NoData fieldConfig={fieldConfig} />;
  }
  return (
    <TimeSeries frames={frames} structureRev={data.structureRev} timeRange={timeRange} timeZone={timeZone} width={width} height={height}
      legend={options.legend} options={options} />
  );
}

function values(props: PanelProps<any>, theme: any) {
  return getFieldDisplayValues({
    fieldConfig: props.fieldConfig, reduceOptions: props.options.reduceOptions, replaceVariables: props.replaceVariables, theme,
    data: props.data.series, timeZone: props.timeZone, sparkline: props.options.graphMode && props.options.graphMode !== 'none',
  });
}

function Stat(props: PanelProps<any>) {
  const theme = useTheme2();
  const { options, width, height, data } = props;
  const shown = values(props, theme);
  return (
    <VizRepeater getValues={() => shown} source={data} width={width} height={height} renderCounter={props.renderCounter} autoGrid
      orientation={options.orientation}
      renderValue={({ value, width, height, count }: any) => (
        <BigValue value={value.display} count={count} sparkline={value.sparkline} colorMode={options.colorMode} graphMode={options.graphMode}
          justifyMode={options.justifyMode} textMode={options.textMode === 'auto' && count > 1 ? 'value_and_name' : options.textMode}
          width={width} height={height} theme={theme} wideLayout={options.wideLayout} text={options.text} />
      )} />
  );
}

function Bars(props: PanelProps<any>) {
  const theme = useTheme2();
  const { options, width, height, data } = props;
  if (!data.series.some((frame) => frame.length)) {
    return <NoData fieldConfig={props.fieldConfig} />;
  }
  const shown = values(props, theme);
  return (
    <VizRepeater getValues={() => shown} source={data} width={width} height={height} renderCounter={props.renderCounter}
      orientation={options.orientation} itemSpacing={10} maxVizHeight={options.maxVizHeight ?? 300} minVizHeight={options.minVizHeight ?? 16}
      renderValue={({ value, width, height, orientation }: any) => (
        <BarGauge value={value.display} width={width} height={height} orientation={orientation} field={value.field} display={value.view?.getFieldDisplayProcessor(value.colIndex)}
          theme={theme} text={options.text} itemSpacing={10} displayMode={options.displayMode} showUnfilled={options.showUnfilled}
          valueDisplayMode={options.valueMode} namePlacement={options.namePlacement} />
      )} />
  );
}

function Table({ data, width, height, options, fieldConfig, timeRange }: PanelProps<any>) {
  React.useMemo(() => cacheFieldDisplayNames(data.series), [data.series]);
  const frame = data.series[0];
  if (!frame?.length) {
    return <NoData fieldConfig={fieldConfig} />;
  }
  return (
    <TableNG data={frame} width={width} height={height} noHeader={!options.showHeader} sortBy={options.sortBy} cellHeight={options.cellHeight}
      timeRange={timeRange} fieldConfig={fieldConfig} noValue={fieldConfig.defaults.noValue} enableVirtualization={false} initialRowIndex={undefined}
      structureRev={data.structureRev} showTypeIcons={false} />
  );
}

function Text({ options, replaceVariables }: PanelProps<any>) {
  return <div className="markdown-html" dangerouslySetInnerHTML={{ __html: renderMarkdown(replaceVariables(options.content)) }} />;
}

const graph = {
  drawStyle: 'line', lineInterpolation: 'linear', lineWidth: 1, fillOpacity: 0, gradientMode: 'none', barAlignment: 0, barWidthFactor: 0.6,
  barMaxWidth: undefined, lineStyle: { fill: 'solid' }, spanNulls: false, insertNulls: false, showPoints: 'auto', pointSize: 5,
  stacking: { mode: 'none', group: 'A' }, transform: undefined, fillBelowTo: undefined, axisPlacement: 'auto', axisLabel: '', axisWidth: undefined,
  axisColorMode: 'text', axisBorderShow: false, axisGridShow: undefined, axisCenteredZero: false, axisSoftMin: undefined, axisSoftMax: undefined,
  scaleDistribution: { type: 'linear' }, hideFrom: { tooltip: false, viz: false, legend: false }, thresholdsStyle: { mode: 'off' },
  lineColor: undefined, fillColor: undefined, pointColor: undefined, showValues: false,
};
const palette = { standardOptions: { [FieldConfigProperty.Color]: { defaultValue: { mode: 'palette-classic' } } } };
const thresholds = { standardOptions: { [FieldConfigProperty.Color]: { defaultValue: { mode: 'thresholds' } } } };
const table = {
  width: undefined, minWidth: undefined, align: 'auto', cellOptions: { type: 'auto' }, inspect: false, filterable: false, hidden: false,
  hideHeader: false, wrapText: false, wrapHeaderText: undefined, displayMode: undefined, footer: undefined, tooltip: undefined,
};

export const plugins: Record<string, PanelPlugin<any, any>> = {
  timeseries: new PanelPlugin<any, any>(Graph).useFieldConfig({ ...palette, ...custom(graph) } as any),
  stat: new PanelPlugin<any, any>(Stat).useFieldConfig(thresholds as any),
  bargauge: new PanelPlugin<any, any>(Bars).useFieldConfig(thresholds as any),
  table: new PanelPlugin<any, any>(Table).useFieldConfig({ ...thresholds, ...custom(table) } as any),
  text: new PanelPlugin<any, any>(Text),
};
for (const [id, plugin] of Object.entries(plugins)) {
  plugin.meta = { id, name: id, info: { version: '13.2.2' }, module: '', baseUrl: '', type: 'panel', sort: 0 } as any;
}
