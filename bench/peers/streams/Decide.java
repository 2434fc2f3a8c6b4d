// The decisions of bench/kafka as a Kafka Streams application: per account a count and a sum, and an outcome for every transaction.
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.nio.ByteBuffer;
import java.util.Properties;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.StreamsBuilder;
import org.apache.kafka.streams.kstream.Consumed;
import org.apache.kafka.streams.kstream.Produced;
import org.apache.kafka.streams.processor.api.Processor;
import org.apache.kafka.streams.processor.api.ProcessorContext;
import org.apache.kafka.streams.processor.api.Record;
import org.apache.kafka.streams.state.KeyValueStore;
import org.apache.kafka.streams.state.Stores;

public class Decide {
    static final String STORE = "accounts";

    static class Decision implements Processor<String, byte[], String, byte[]> {
        private final ObjectMapper json = new ObjectMapper();
        private ProcessorContext<String, byte[]> context;
        private KeyValueStore<String, byte[]> accounts;

        @Override
        public void init(ProcessorContext<String, byte[]> context) {
            this.context = context;
            this.accounts = context.getStateStore(STORE);
        }

        @Override
        public void process(Record<String, byte[]> record) {
            try {
                JsonNode row = json.readTree(record.value());
                byte[] before = accounts.get(record.key());
                long n = before == null ? 0 : ByteBuffer.wrap(before).getLong(0);
                long sum = before == null ? 0 : ByteBuffer.wrap(before).getLong(8);
                long amount = row.get("amount").asLong();
                String outcome = n > 20 && amount > 500 ? "review" : "approve";
                accounts.put(record.key(), ByteBuffer.allocate(16).putLong(n + 1).putLong(sum + amount).array());
                var decision = json.createObjectNode().put("decision", "limit").put("outcome", outcome).put("time", row.get("at").asText())
                    .put("n", n).put("sum", sum);
                context.forward(record.withValue(json.writeValueAsBytes(decision)));
            } catch (java.io.IOException e) {
                throw new java.io.UncheckedIOException(e);
            }
        }
    }

    public static void main(String[] args) throws InterruptedException {
        var settings = new Properties();
        settings.put("bootstrap.servers", args[0]);
        settings.put("application.id", args[1]);
        settings.put("processing.guarantee", args[2]);
        settings.put("commit.interval.ms", args[3]);
        settings.put("state.dir", args[4]);
        settings.put("num.stream.threads", args[5]);
        settings.put("replication.factor", "1");
        settings.put("default.key.serde", Serdes.String().getClass());
        settings.put("consumer.auto.offset.reset", "earliest");
        settings.put("producer.linger.ms", "1");
        settings.put("statestore.cache.max.bytes", "0");
        var builder = new StreamsBuilder();
        builder.addStateStore(Stores.keyValueStoreBuilder(Stores.inMemoryKeyValueStore(STORE), Serdes.String(), Serdes.ByteArray()));
        builder.stream("transactions", Consumed.with(Serdes.String(), Serdes.ByteArray()))
            .process(Decision::new, STORE)
            .to("decisions", Produced.with(Serdes.String(), Serdes.ByteArray()));
        var streams = new KafkaStreams(builder.build(), settings);
        streams.setStateListener((now, before) -> {
            if (now == KafkaStreams.State.RUNNING) {
                System.out.println("running");
                System.out.flush();
            }
        });
        Runtime.getRuntime().addShutdownHook(new Thread(streams::close));
        streams.start();
        Thread.currentThread().join();
    }
}
