// The decisions of bench/kafka in Spark Structured Streaming: per account a count and a sum, and an outcome for every transaction. In Java, so that no row crosses into
// Python; `pyspark` brings the jars.
import java.util.ArrayList;
import java.util.Comparator;
import java.util.List;
import org.apache.spark.api.java.function.FlatMapGroupsWithStateFunction;
import org.apache.spark.api.java.function.MapFunction;
import org.apache.spark.sql.Encoder;
import org.apache.spark.sql.Encoders;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;
import org.apache.spark.sql.streaming.GroupStateTimeout;
import org.apache.spark.sql.streaming.OutputMode;
import scala.Tuple2;

public class Decide {
    public static void main(String[] args) throws Exception {
        String brokers = args[0], checkpoint = args[1], cores = args[2];
        var spark = SparkSession.builder().master("local[" + cores + "]").appName("decide")
            .config("spark.ui.enabled", false)
            .config("spark.sql.shuffle.partitions", cores)
            .getOrCreate();
        spark.sparkContext().setLogLevel("ERROR");
        var rows = spark.readStream().format("kafka")
            .option("kafka.bootstrap.servers", brokers)
            .option("subscribe", "transactions")
            .option("startingOffsets", "earliest")
            .load()
            .selectExpr("CAST(key AS STRING) AS account", "offset", "from_json(CAST(value AS STRING), 'at STRING, amount BIGINT') AS row")
            .selectExpr("account", "offset", "row.at AS at", "row.amount AS amount");
        FlatMapGroupsWithStateFunction<String, Row, Tuple2<Long, Long>, Tuple2<String, String>> decide = (account, transactions, state) -> {
            List<Row> inOrder = new ArrayList<>();
            transactions.forEachRemaining(inOrder::add);
            inOrder.sort(Comparator.comparingLong(row -> row.getLong(1)));
            long n = state.exists() ? state.get()._1() : 0, sum = state.exists() ? state.get()._2() : 0;
            List<Tuple2<String, String>> decisions = new ArrayList<>();
            for (Row row : inOrder) {
                long amount = row.getLong(3);
                String outcome = n > 20 && amount > 500 ? "review" : "approve";
                decisions.add(new Tuple2<>(account, "{\"decision\":\"limit\",\"outcome\":\"" + outcome + "\",\"time\":\"" + row.getString(2)
                    + "\",\"n\":" + n + ",\"sum\":" + sum + "}"));
                n += 1;
                sum += amount;
            }
            state.update(new Tuple2<>(n, sum));
            return decisions.iterator();
        };
        Encoder<Tuple2<Long, Long>> kept = Encoders.tuple(Encoders.LONG(), Encoders.LONG());
        Encoder<Tuple2<String, String>> sent = Encoders.tuple(Encoders.STRING(), Encoders.STRING());
        var query = rows.groupByKey((MapFunction<Row, String>) row -> row.getString(0), Encoders.STRING())
            .flatMapGroupsWithState(decide, OutputMode.Append(), kept, sent, GroupStateTimeout.NoTimeout())
            .selectExpr("_1 AS key", "_2 AS value")
            .writeStream().format("kafka")
            .option("kafka.bootstrap.servers", brokers)
            .option("topic", "decisions")
            .option("checkpointLocation", checkpoint)
            .start();
        System.out.println("running");
        System.out.flush();
        query.awaitTermination();
    }
}
