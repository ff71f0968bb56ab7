// Parses PromQL: a list of expressions comes as JSON on standard input, and for each [metric names, first error or null] goes out.
import {readFileSync} from "node:fs";
import {parser} from "@prometheus-io/lezer-promql";

const parsed = JSON.parse(readFileSync(0, "utf8")).map((expression) => {
    const metrics = [];
    let error = null;
    parser.parse(expression).iterate({
        enter(node) {
            const text = expression.slice(node.from, node.to);
            if (node.type.isError) error ??= `at ${node.from}: ${text}`;
            if (node.name === "Identifier" && node.node.parent.name === "VectorSelector") metrics.push(text);
        },
    });
    return [metrics, error];
});
console.log(JSON.stringify(parsed));
