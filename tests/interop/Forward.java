import java.io.IOException;
import java.net.InetSocketAddress;
import java.net.ProxySelector;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;

/** GETs a URL and POSTs to it with both versions of HTTP, through a proxy, and prints the answers as a JSON array. */
class Forward {
    public static void main(String[] arguments) throws IOException, InterruptedException {
        var proxy = ProxySelector.of(new InetSocketAddress("127.0.0.1", Integer.parseInt(arguments[0])));
        var answers = new java.util.ArrayList<String>();
        for (var version : HttpClient.Version.values()) {
            var client = HttpClient.newBuilder().proxy(proxy).version(version).build();
            for (var body : new String[] {null, "body"}) {
                var request = HttpRequest.newBuilder(URI.create(arguments[1]));
                if (body != null) request.POST(HttpRequest.BodyPublishers.ofString(body));
                var answer = client.send(request.build(), HttpResponse.BodyHandlers.ofString());
                if (answer.statusCode() != 200) throw new IOException(answer.statusCode() + " " + answer.body());
                answers.add(answer.body());
            }
        }
        System.out.println("[" + String.join(",", answers) + "]");
    }
}
