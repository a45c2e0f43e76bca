// What the type checker is told of uplot.js; browsers do not read it.

declare const uPlot: any;
export default uPlot;
